use super::*;

fn words(line: &str) -> Vec<String> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    candidates(&words, || None)
}

#[test]
fn commands_options_and_their_values_are_known() {
    assert_eq!(words("s"), ["show", "status"]);
    assert_eq!(words("list --n"), ["--namespace", "--no-headers"]);
    assert_eq!(words("list -o "), ["json", "table", "wide", "yaml"]);
    assert_eq!(words("list --protocol u"), ["udp"]);
    assert_eq!(words("completion "), ["bash", "fish", "zsh"]);
    assert_eq!(words("help repa"), ["repair"]);
    assert!(!words("").contains(&"complete".to_owned()));
    assert!(words("install --conf-dir ").is_empty(), "the shell knows files");
}
