//! Policies come, go and change while connections live.

mod plaintext;
mod pushes;
mod scene;
mod verdicts;
