//! A program of another owner, attached to the root as Cilium attaches its own. Cilium itself is in no package.

use std::process::Command;

use super::*;

/// Attaches a program to the cgroup for `connect` over IPv4, with `BPF_F_ALLOW_MULTI`. It translates the address of a
/// Service to a port of 127.0.0.1.
const OWNER: &str = "
import ctypes, os, socket, struct, sys
system = ctypes.CDLL(None, use_errno=True).syscall
number = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
def bpf(command, attributes):
    done = system(number, command, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes))
    if done < 0:
        sys.exit('bpf command %d: %s' % (command, os.strerror(ctypes.get_errno())))
    return done
def load(point, code):
    text, licence = ctypes.create_string_buffer(b''.join(code)), ctypes.create_string_buffer(b'GPL')
    at, of = ctypes.addressof(text), ctypes.addressof(licence)
    return bpf(5, struct.pack('=IIQQIIQII16sII', 18, len(code), at, of, 0, 0, 0, 0, 0, b'theirs', 0, point))
def line(code, registers=0, offset=0, value=0):
    return struct.pack('=BBhi', code, registers, offset, value)
cgroup, service, port = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2], int(sys.argv[3])
address = lambda text: struct.unpack('=i', socket.inet_aton(text))[0]
to = [line(0xb7, 0x03, 0, address('127.0.0.1')), line(0x63, 0x31, 4)]
to += [line(0xb7, 0x03, 0, socket.htons(port)), line(0x63, 0x31, 24)]
permit = [line(0xb7, 0, 0, 1), line(0x95)]
program = load(10, [line(0x61, 0x12, 4), line(0x55, 0x02, len(to), address(service))] + to + permit)
bpf(8, struct.pack('=IIII', cgroup, program, 10, 2))
";

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_program_attached_as_cilium_does_runs_beside_the_hook() {
    let mut scene = Scene::guarded("\"guardRange\": true");
    let root = scene.cgroup.path("");
    let (_, http) = scene.holds("one", "http=8080", Some("redirect"));
    let port = http.to_string();
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", OWNER]).arg(&root).args(["10.96.0.1", &port]);
    let attached = command.output().expect("it can be started");
    assert!(attached.status.success(), "{attached:?}");
    for _ in 0..2 {
        let mut actor = scene.inside("one");
        assert_eq!(actor.does("listens 0.0.0.0:8080"), format!("0.0.0.0:{http}"));
        for asked in ["127.0.0.1:8080", "10.96.0.1:80"] {
            assert_eq!(actor.does(&format!("connects {asked}")), "one to 127.0.0.1", "{asked}");
        }
        drop(actor);
        scene.replace_agent();
    }
}
