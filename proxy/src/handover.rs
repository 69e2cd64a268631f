//! Handing over to a successor: the session of [`drain::handover`] carried out for this process.
//!
//! | file | what |
//! |---|---|
//! | `greeting` | who is there, and whether we want to deal with each other |
//! | `driver` | one session: the machine's decisions carried out |
//! | `saying` | what the machine says, as messages |
//! | `line` | the socket, as something that can be waited for |
//! | `outgoing` | what waits to be sent; a commit is ours until the kernel has it |
//! | `giving`, `taking` | connections on their way out and in |
//! | `coming` | tunnels that are named before they come |
//! | `parts`, `role` | what the role is made of, and what a session asks of the process |
//! | `pause` | a test switch: a process that stops itself at a step |
//! | `status` | what operators are told |

pub mod coming;
pub mod driver;
pub mod giving;
pub mod greeting;
pub mod line;
pub mod mesh;
pub mod outgoing;
pub mod parts;
pub mod pause;
pub mod role;
pub mod saying;
pub mod status;
pub mod taking;
