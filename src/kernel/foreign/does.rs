//! What rules do with packets.

use crate::kernel::netlink::message::Attributes;
use crate::kernel::uapi;

/// What a rule does with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Does {
    /// Another destination, as far as the rule says which.
    Translate(String),
    /// Another source.
    Masquerade,
    /// To another chain, and perhaps back.
    Jump(String),
    /// To another chain.
    Goto(String),
    /// Lets it pass this hook.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Back to where the chain was called from.
    Return,
    /// Something that is not understood, which may be the end of the packet.
    Unknown(String),
    /// Nothing that matters here.
    #[default]
    Nothing,
}

pub(super) fn verdict(data: Attributes<'_>) -> Option<Does> {
    let verdict = data.nested(uapi::NFTA_DATA_VERDICT)?;
    let chain = || verdict.text(uapi::NFTA_VERDICT_CHAIN).unwrap_or_default().to_owned();
    Some(match verdict.u32(uapi::NFTA_VERDICT_CODE)?.cast_signed() {
        uapi::NFT_JUMP => Does::Jump(chain()),
        uapi::NFT_GOTO => Does::Goto(chain()),
        uapi::NF_ACCEPT => Does::Accept,
        uapi::NF_DROP => Does::Drop,
        uapi::NFT_RETURN => Does::Return,
        uapi::NFT_CONTINUE | uapi::NFT_BREAK => Does::Nothing,
        _ => Does::Unknown("queue".to_owned()),
    })
}
