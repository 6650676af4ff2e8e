use super::*;

#[test]
fn wrong_arguments_are_told_in_one_line() {
    for (arguments, told) in [
        (
            &["list", "--port", "abc"][..],
            "invalid value 'abc' for '--port <PORT[-LAST]>': port \"abc\" is not a number from 1 to 65535",
        ),
        (&["lst"], "unrecognized subcommand 'lst'; a similar subcommand exists: 'list'"),
        (&["show"], "the following required arguments were not provided: <PORT|POD>"),
        (
            &["list", "-o", "toml"],
            "invalid value 'toml' for '--output <FORMAT>' [possible values: table, wide, json, yaml]",
        ),
    ] {
        let arguments = ["autoport"].iter().chain(arguments);
        let error = Cli::try_parse_from(arguments).err().expect("it is wrong");
        assert_eq!(in_one_line(&error.render().to_string()), told);
    }
}
