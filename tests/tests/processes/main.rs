//! Real proxy processes against stock peers and against faults.

/// Makes a test of each function for each variant: `name::still` and `name::moving`.
macro_rules! in_both_variants {
    ($($name:ident)*) => {$(
        mod $name {
            use tests::world::Variant;

            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn still() {
                super::$name(Variant::Still).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn moving() {
                super::$name(Variant::Moving).await;
            }
        }
    )*};
}

mod hostile;
mod interop;
mod life;
mod limits;
mod plain;
mod pool;
mod startup;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
