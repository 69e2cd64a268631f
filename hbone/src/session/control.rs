//! What the frames do that are about the connection, or about a stream but carry nothing for it.

use super::input::violation;
use super::shutdown::Shutdown;
use super::{KEEPALIVE, PROBE, SHUTDOWN, Session, Standing};
use crate::error::{ConnectionError, ErrorCode};
use crate::event::Event;
use crate::frame::{GoAway, Ping, Reset, Settings, WindowUpdate};
use crate::role::Role;
use crate::settings::DEFAULT_WINDOW;
use crate::time::Time;

impl Session {
    /// RFC 9113 section 6.4.
    pub(super) fn receive_reset(
        &mut self,
        now: Time,
        reset: Reset,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let code = reset.code;
        let id = match self.standing(reset.stream) {
            Standing::Live(id) => id,
            Standing::Idle => return Err(violation("RST_STREAM on an idle stream")),
            Standing::Ignored | Standing::Closed(_) => return self.trifle(now),
        };
        self.charge_reset(now)?;
        self.cut(id, code, code == ErrorCode::REFUSED_STREAM, events);
        Ok(())
    }

    /// RFC 9113 section 6.5. A changed initial window changes all streams' (section 6.9.2).
    pub(super) fn receive_settings(
        &mut self,
        now: Time,
        settings: &Settings,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        if self.greeted {
            self.trifle(now)?;
        }
        self.greeted = true;
        if self.role == Role::Client && settings.enable_push == Some(true) {
            return Err(violation("a server that enables push"));
        }
        let before = i64::from(self.peer.initial_window);
        self.peer.apply(settings);
        let by = i64::from(self.peer.initial_window) - before;
        if by != 0 {
            self.change_windows(by, events)?;
        }
        self.output.acknowledge_settings()
    }

    fn change_windows(&mut self, by: i64, events: &mut Vec<Event>) -> Result<(), ConnectionError> {
        let connection_room = self.send.room();
        for stream in self.streams.iter_mut() {
            let stuck = stream.send.room() == 0;
            if stream.send.change(by).is_err() {
                return Err(ConnectionError::http2(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "SETTINGS raise a stream's window beyond 2^31-1",
                ));
            }
            if stuck && stream.send.room() > 0 && connection_room > 0 && stream.state.can_send() {
                events.push(Event::Window { stream: stream.id });
            }
        }
        Ok(())
    }

    /// Ours are in force at the peer from here on.
    pub(super) fn receive_settings_ack(&mut self) -> Result<(), ConnectionError> {
        if self.acknowledged {
            return Err(violation("SETTINGS acknowledged that weren't sent"));
        }
        self.acknowledged = true;
        self.decoder.set_max_table_size(0);
        let shrunk = DEFAULT_WINDOW.saturating_sub(self.config.initial_stream_window());
        for stream in self.streams.iter_mut() {
            stream.receive.shrink(shrunk);
        }
        self.notice_windows();
        Ok(())
    }

    /// RFC 9113 section 6.7.
    pub(super) fn receive_ping(
        &mut self,
        now: Time,
        ping: Ping,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        match ping {
            Ping { ack: false, payload } => self.output.reply(|out| Ping { ack: true, payload }.encode(out)),
            Ping { payload: KEEPALIVE, .. } => {
                if self.keepalive.answered(now, &self.config) {
                    self.recent.answered();
                }
                Ok(())
            }
            Ping { payload: SHUTDOWN, .. } => {
                if matches!(self.shutdown, Shutdown::Announced { .. }) {
                    self.say_final(ErrorCode::NO_ERROR);
                }
                Ok(())
            }
            Ping { payload: PROBE, .. } if self.probing => {
                self.probing = false;
                events.push(Event::Answered);
                Ok(())
            }
            // Nothing we asked.
            Ping { .. } => self.trifle(now),
        }
    }

    /// RFC 9113 section 6.8. Streams of ours above the last were never processed.
    pub(super) fn receive_go_away(
        &mut self,
        now: Time,
        go_away: &GoAway<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let last = go_away.last_stream;
        match self.peer_shutdown {
            None => events.push(Event::Draining),
            Some(before) if last > before => {
                return Err(violation("GOAWAY with a higher last stream than before"));
            }
            Some(_) => self.trifle(now)?,
        }
        self.peer_shutdown = Some(last);
        if self.role == Role::Client {
            self.cut_above(last, ErrorCode::REFUSED_STREAM, true, events);
        }
        Ok(())
    }

    /// RFC 9113 section 6.9.
    pub(super) fn receive_window_update(
        &mut self,
        now: Time,
        update: WindowUpdate,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let by = i64::from(update.increment);
        if update.stream == 0 {
            return self.widen_connection(by, events);
        }
        let id = match self.standing(update.stream) {
            Standing::Live(id) => id,
            Standing::Idle => return Err(violation("WINDOW_UPDATE on an idle stream")),
            Standing::Ignored | Standing::Closed(_) => return Ok(()),
        };
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        let stuck = stream.send.room() == 0;
        if stream.send.change(by).is_err() {
            let text = "a stream's window beyond 2^31-1";
            return self.stream_error(now, id.get(), ErrorCode::FLOW_CONTROL_ERROR, text, events);
        }
        if stuck && self.send_room(id) > 0 {
            events.push(Event::Window { stream: id });
        }
        Ok(())
    }

    fn widen_connection(&mut self, by: i64, events: &mut Vec<Event>) -> Result<(), ConnectionError> {
        let stuck = self.send.room() == 0;
        if self.send.change(by).is_err() {
            return Err(ConnectionError::http2(
                ErrorCode::FLOW_CONTROL_ERROR,
                "the connection's window beyond 2^31-1",
            ));
        }
        if stuck {
            let ready = self.streams.iter().filter(|stream| self.send_room(stream.id) > 0);
            events.extend(ready.map(|stream| Event::Window { stream: stream.id }));
        }
        Ok(())
    }
}
