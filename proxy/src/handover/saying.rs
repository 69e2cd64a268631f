//! What the machine says, as messages.

use drain::handover::message::Message;
use drain::handover::session::Say;

/// The message for what decides something. States, commits of connections and the role's parts carry more, and are made where that is.
pub fn message(say: Say, parts: u32) -> Option<Message> {
    Some(match say {
        Say::Able { alone } => Message::Able { alone },
        Say::Terminating => Message::Terminating,
        Say::RoleState { epoch } => Message::RoleState { epoch, parts },
        Say::RolePrepared { epoch } => Message::RolePrepared { epoch },
        Say::RoleRefused { epoch, reason } => Message::RoleRefused { epoch, reason },
        Say::RoleCommit { epoch } => Message::RoleCommit { epoch },
        Say::RoleAbort { epoch } => Message::RoleAbort { epoch, reason: String::new() },
        Say::Prepared { offer } => Message::Prepared { offer },
        Say::Refused { offer, reason, again } => Message::Refused { offer, reason, again },
        Say::Abort { offer } => Message::Abort { offer },
        Say::Proved { offer } => Message::Proved { offer },
        Say::NotProved { offer, reason } => Message::NotProved { offer, reason },
        Say::State { .. } | Say::Commit { .. } => return None,
    })
}

/// What a message decides; the message itself if it is nothing that the machine knows.
pub fn say(message: Message) -> Result<Say, Message> {
    Ok(match message {
        Message::Able { alone } => Say::Able { alone },
        Message::Terminating => Say::Terminating,
        Message::RolePrepared { epoch } => Say::RolePrepared { epoch },
        Message::RoleRefused { epoch, reason } => Say::RoleRefused { epoch, reason },
        Message::RoleAbort { epoch, .. } => Say::RoleAbort { epoch },
        Message::Prepared { offer } => Say::Prepared { offer },
        Message::Refused { offer, reason, again } => Say::Refused { offer, reason, again },
        Message::Abort { offer } => Say::Abort { offer },
        Message::Proved { offer } => Say::Proved { offer },
        Message::NotProved { offer, reason } => Say::NotProved { offer, reason },
        other => return Err(other),
    })
}
