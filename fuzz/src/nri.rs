//! The node agent's door: what a runtime sends. Any bytes may come, in any pieces.

use prost::Message as _;

use autoport_agent::nri::call::Call;
use autoport_agent::nri::frame::{Decoder, FRAME_PAYLOAD_MAX, Message, TooLarge};
use autoport_agent::nri::message::{Request, Response};

/// The size of the pieces in which the rest arrives; then the bytes of a connection.
pub fn nri(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = messages(bytes, bytes.len().max(1));
    assert_eq!(messages(bytes, usize::from(*piece).max(1)), whole, "pieces of {piece}");
    for message in whole.0 {
        if let Ok(request) = Request::decode(message.body.as_slice()) {
            let _ = Call::of(&request);
        }
        let _ = Response::decode(message.body.as_slice());
        let sent = message.encode().expect("it has been received, so it is not too large");
        let frames = sent.len().div_ceil(FRAME_PAYLOAD_MAX + 8);
        assert_eq!(sent.len(), message.body.len() + 10 + 8 * frames);
        assert_eq!(messages(&sent, sent.len()), (vec![message], Ok(())));
    }
}

/// The messages in `bytes`, and why they end.
fn messages(bytes: &[u8], piece: usize) -> (Vec<Message>, Result<(), TooLarge>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece) {
        let fed = decoder.feed(piece);
        messages.extend(std::iter::from_fn(|| decoder.pop()));
        if fed.is_err() {
            return (messages, fed);
        }
    }
    (messages, Ok(()))
}
