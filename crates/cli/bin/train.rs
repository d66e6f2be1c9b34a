//! `duet train` as a binary of its own.

fn main() -> std::process::ExitCode {
    duet::run_train(std::env::args_os())
}
