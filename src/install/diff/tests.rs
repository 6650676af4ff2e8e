use super::*;

#[test]
fn equal_texts_have_no_difference() {
    assert_eq!(unified("a", "x\n", "x\n"), "");
}

#[test]
fn a_change_stands_between_three_lines_of_context() {
    let old = "1\n2\n3\n4\n5\n6\n7\n8\n9";
    let new = "1\n2\n3\n4\nfive\n6\n6a\n7\n8\n9";
    let expected = "--- a\n+++ a\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+five\n 6\n+6a\n 7\n 8\n 9\n\
                    \\ No newline at end of file\n";
    assert_eq!(unified("a", old, new), expected);
    let expected = "--- a\n+++ a\n@@ -1,1 +1,2 @@\n-x\n\\ No newline at end of file\n+x\n+y\n";
    assert_eq!(unified("a", "x", "x\ny\n"), expected);
}
