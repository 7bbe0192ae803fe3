//! om-migd: serves the om files on today's kernels and moves processes. Everything is in the library.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(u8::try_from(om_migd::daemon::main()).unwrap_or(1))
}
