//! Phrases that a reader has to translate, or that leave out who does something. Neither messages nor
//! documents have them.

/// In lower case. Each is found at the beginning of a word.
const BANNED: [&str; 24] = [
    "whoever",
    "somebody",
    "nobody knows",
    "is no more",
    "are no more",
    "anew",
    "is said",
    "says so by",
    "by the name of",
    "stands in",
    "stands where",
    "goes on as",
    "leads nowhere",
    "wish",
    "what is wrong",
    "who is gone",
    "gives way",
    "of which",
    "for it is",
    "is no business",
    "makes again",
    "let in whom",
    "speaks of",
    "has no say",
];

/// Those that `text` has.
pub(crate) fn banned_in(text: &str) -> Vec<&'static str> {
    let letters = |c: char| if c.is_alphabetic() { c } else { ' ' };
    let plain: String = text.to_lowercase().chars().map(letters).collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let plain = format!(" {} ", words.join(" "));
    BANNED.into_iter().filter(|phrase| plain.contains(&format!(" {phrase}"))).collect()
}
