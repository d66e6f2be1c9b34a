//! `duet embed` as a binary of its own.

fn main() -> std::process::ExitCode {
    duet::run_embed(std::env::args_os())
}
