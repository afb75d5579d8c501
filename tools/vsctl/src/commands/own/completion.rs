//! `completion`: a script that teaches a shell the commands and options.

use clap_complete::Shell;

use crate::cli;

/// `completion`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// The script of a shell, for database commands and own ones alike.
pub(super) fn run(args: &Args) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::full_command(), "vsctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_all_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = run(&Args { shell });
            for word in ["add-port", "may-exist", "dump-flows", "fdb", "no-wait"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
