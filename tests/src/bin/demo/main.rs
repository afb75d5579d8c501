//! `make demo`: two Linux guests, a host namespace and the switch between them, while you watch.
//!
//! With `KEEP=1` everything stays up and the last lines say how to look around and how to stop it; otherwise the demo
//! leaves nothing behind, not even when interrupted.
//!
//! ```text
//! demo               the demo
//! demo guest N CMD   run a shell command in guest N of a demo that was kept
//! demo stop          end a demo that was kept
//! ```

mod acts;
mod kept;

use std::env;
use std::process::ExitCode;

use tests::failure::{Failure, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => demo(),
        ["stop"] => kept::stop(),
        ["guest", number, command @ ..] => kept::guest(number, &command.join(" ")),
        _ => Err(Failure::new("usage: demo | demo guest N COMMAND | demo stop")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let keep = env::var("KEEP").is_ok_and(|v| !v.is_empty() && v != "0");
    kept::refuse_if_running()?;
    let mut set = acts::Set::build(keep)?;
    acts::ping(&mut set)?;
    acts::guest_to_guest(&mut set)?;
    acts::guest_to_host(&mut set)?;
    acts::summary(&mut set)?;
    if keep { set.keep() } else { Ok(()) }
}
