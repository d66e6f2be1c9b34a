//! The whole command line.

fn main() -> std::process::ExitCode {
    duet::run(std::env::args_os())
}
