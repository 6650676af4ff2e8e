//! What is generated is what a shell and man(1) read.

#![expect(clippy::disallowed_methods, reason = "a test has files and children")]

use std::fs;
use std::path::Path;
use std::process::Command;

const SUBCOMMANDS: [&str; 5] = ["list", "show", "env", "status", "explain"];

#[test]
fn shells_and_man_read_what_is_generated() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    for _ in 0..2 {
        fs::create_dir_all(folder.join("man")).expect("a folder");
        fs::write(folder.join("man/autoport-old.1"), "").expect("a file");
        let status = Command::new(env!("CARGO_BIN_EXE_generate")).arg(&folder).status();
        assert!(status.expect("it is built").success());
    }
    assert!(!folder.join("man/autoport-old.1").exists(), "what is no more is removed");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    for name in ["completions/autoport.bash", "completions/_autoport", "completions/autoport.fish"]
    {
        assert!(read(name).contains("autoport complete -- "), "{name}");
    }
    let agent = read("man/autoport-agent.1");
    assert!(agent.contains("net\\-conf\\-dir"), "{agent}");
    assert!(read("completions/autoport-agent.fish").contains("standby"));
    let bash =
        Command::new("bash").arg("-n").arg(folder.join("completions/autoport.bash")).output();
    let bash = bash.expect("bash is there");
    assert!(bash.status.success() && bash.stderr.is_empty(), "{bash:?}");
    let main = read("man/autoport.1");
    assert!(
        main.contains(".SH \"EXIT STATUS\"") && main.contains(env!("CARGO_PKG_VERSION")),
        "{main}"
    );
    for name in SUBCOMMANDS {
        assert!(main.contains(&format!("autoport\\-{name}(1)")), "{name}: {main}");
        let page = read(&format!("man/autoport-{name}.1"));
        assert!(page.contains(".SH SYNOPSIS") && page.contains("state\\-dir"), "{page}");
        assert!(page.contains(".SH EXAMPLES") && !page.contains("EXTRA"), "{page}");
    }
    let list = read("man/autoport-list.1");
    assert!(list.contains("[\\-n NAMESPACE]") && list.contains("[\\-\\-no\\-headers]"), "{list}");
}
