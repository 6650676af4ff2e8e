use super::*;

#[test]
fn what_is_quoted_stays_on_one_line() {
    assert_eq!(quote("a\nb\"c"), r#""a\nb\"c""#);
    assert!(quote(&"\n".repeat(500)).len() < 130);
}
