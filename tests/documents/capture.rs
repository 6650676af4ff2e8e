//! The demo in docs/demo.md is that of today.

use super::*;

/// What follows `start` in each line of the demo that begins so, up to a variable or the end of the text.
fn after<'a>(script: &'a str, start: &str) -> Vec<&'a str> {
    let lines = script.lines().filter_map(|line| line.trim_start().strip_prefix(start));
    lines.filter_map(|text| text.split(['$', '"', '\\']).next()).collect()
}

/// What the demo prints is in docs/demo.md as it would be printed today, but for what varies.
#[test]
fn the_demo_in_its_page_is_that_of_today() {
    let page = read("docs/demo.md");
    let captured = page.split("<!-- demo -->\n").nth(1).expect("the first marker");
    let captured = captured.split("\n<!-- /demo -->").next().expect("the last marker");
    let script = read("integration/demo.sh");
    let steps = after(&script, "step \"");
    assert!(steps.len() >= 5, "the steps of the demo: {steps:?}");
    let numbered: Vec<_> = captured
        .lines()
        .filter_map(|line| line.split_once(". "))
        .filter(|(number, _)| number.parse::<u8>().is_ok())
        .map(|(_, title)| title)
        .collect();
    let again = "run `make demo-capture`";
    assert_eq!(numbered.len(), steps.len(), "{numbered:?}, {steps:?}: {again}");
    for (title, step) in numbered.iter().zip(&steps) {
        assert!(title.starts_with(step), "{title:?}, {step:?}: {again}");
    }
    // A line that begins with a quotation mark continues a `say`.
    for (start, shown) in
        [("command_line \"", "   $ "), ("say \"", "   "), ("\"", "   "), ("good \"", "   ✓ ")]
    {
        for text in after(&script, start) {
            assert!(captured.contains(&format!("{shown}{text}")), "{text:?}: {again}");
        }
    }
}
