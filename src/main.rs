//! The executable: the CNI plugin where `CNI_COMMAND` is set, the operator's command line where it
//! is not. Everything that the library may not touch is collected here: environment, arguments,
//! standard streams, clock, exit status.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the edge")]
#![expect(clippy::disallowed_methods, reason = "this is the edge")]

mod cli;

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::panic;
use std::process::ExitCode;
use std::time::SystemTime;

use autoport::app::{self, World};
use autoport::cni::{Env, NODE_FILE};

/// No configuration with its mappings comes near this; 10,000 mappings take about 1 MiB.
const STDIN_MAX: u64 = 16 << 20;

fn main() -> ExitCode {
    let env: Env = std::env::vars_os().collect();
    if env.is_plugin_call() { plugin(&env) } else { cli::main() }
}

fn plugin(env: &Env) -> ExitCode {
    panic::set_hook(Box::new(|panic| {
        let message = panic.to_string();
        eprintln!("autoport: {message}");
        print!("{}", app::panicked(&message));
    }));
    let outcome = app::run(World {
        env,
        stdin: read_stdin(),
        node_file: read_node_file,
        now: SystemTime::now(),
        log: &mut io::stderr(),
    });
    // A runtime that went away does not read the reply, and there is nobody else to tell.
    let _ = io::stdout().write_all(&outcome.stdout);
    if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A person who tries `CNI_COMMAND=VERSION autoport` by hand has nothing to type.
fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if io::stdin().is_terminal() {
        return Ok(bytes);
    }
    io::stdin().take(STDIN_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > STDIN_MAX {
        return Err(io::Error::other(format!("it is larger than {STDIN_MAX} bytes")));
    }
    Ok(bytes)
}

/// The node's own configuration file; `None` where there is none.
fn read_node_file() -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(NODE_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
