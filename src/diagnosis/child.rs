//! Other programs that are asked something, for a limited time.

use std::io::{self, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// What it prints beyond this is left out.
const OUTPUT_MAX: u64 = 16 << 20;

/// Runs `command` and gives what it printed. It is killed if it takes longer than five seconds.
pub(super) fn output(command: &mut Command) -> io::Result<Output> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let until = Instant::now() + PATIENCE;
    let streams = (read(child.stdout.take()), read(child.stderr.take()));
    let ended = finish(&mut child, &streams, until);
    if ended.is_err() {
        // It may have ended by itself just now.
        let _ = child.kill().and_then(|()| child.wait());
    }
    ended
}

type Stream = mpsc::Receiver<Vec<u8>>;

fn finish(child: &mut Child, streams: &(Stream, Stream), until: Instant) -> io::Result<Output> {
    let late = |_| io::Error::other(format!("no answer within {} s", PATIENCE.as_secs()));
    let left = || until.saturating_duration_since(Instant::now());
    let stdout = streams.0.recv_timeout(left()).map_err(late)?;
    let stderr = streams.1.recv_timeout(left()).map_err(late)?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { status, stdout, stderr });
        }
        if left().is_zero() {
            return Err(late(mpsc::RecvTimeoutError::Timeout));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads a stream in a thread of its own: a child that fills one pipe does not go on to the other.
fn read(stream: Option<impl Read + Send + 'static>) -> Stream {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            let _ = stream.take(OUTPUT_MAX).read_to_end(&mut bytes);
        }
        let _ = tell.send(bytes);
    });
    told
}
