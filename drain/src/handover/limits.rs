//! How long each step of a hand-over may take. Whoever waits longer goes on as if the other side had refused.
//!
//! | step | limit | then |
//! |---|---|---|
//! | hello | 3 s | the new process starts beside the old one, as stock would |
//! | the role, from its first part until *prepared* | 30 s | the owner keeps it, tries again after 1 s |
//! | the role's commit, until the socket takes it | 1 s | the owner accepts again, tries again after 1 s |
//! | warm state of the mesh | 30 s | the candidate goes by its own stream alone |
//! | the mesh at the successor as new as at the owner | 500 ms | the connection runs here again, is offered again after 250 ms |
//! | the same, in all | 10 s | the successor's own view of the mesh counts |
//! | *prepared* of a connection | 2 s | it runs here again, is offered again after 250 ms |
//! | proof of a canary | 3 s | another one, three in all; then what is left drains |
//! | a pod's end, told to the other side | 1 s | istio-cni is answered anyway |
//! | everything | the drain's deadline | what is left is cut |

/// The first word of the other side, ms.
pub const HELLO_MS: u64 = 3_000;

/// From the end of the role's state until it is prepared, ms.
pub const ROLE_MS: u64 = 30_000;

/// Until a role that was refused is offered again, ms.
pub const ROLE_RETRY_MS: u64 = 1_000;

/// From the end of accepting until the role's commit is in the socket, ms.
pub const COMMIT_MS: u64 = 1_000;

/// From the state of a connection until it is prepared, ms.
pub const PREPARED_MS: u64 = 2_000;

/// Until all that the owner knows of the mesh has come, ms.
pub const WARM_MS: u64 = 30_000;

/// Until the successor's mesh is as new as the one that allowed a connection, ms. Less than [`PREPARED_MS`].
pub const MESH_MS: u64 = 500;

/// How long it may stay behind, ms. Then connections are judged by what it has: it is what istiod says there.
pub const MESH_PATIENCE_MS: u64 = 10_000;

/// Until connections that could not be given are offered again, ms.
pub const WAVE_RETRY_MS: u64 = 250;

/// From the commit of a canary until its peer has answered, ms.
pub const CANARY_MS: u64 = 3_000;

/// How many canaries are tried.
pub const CANARIES: u8 = 3;

/// How often the lock of a holder that is gone is tried, ms.
pub const LOCK_RETRY_MS: u64 = 50;

/// How long istio-cni waits for the other side to let go of a pod, ms.
pub const POD_CLOSED_MS: u64 = 1_000;
