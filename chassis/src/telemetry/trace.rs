//! The trace id in a NATS header, in the form of W3C Trace Context, version 00.

use std::fmt;
use std::str::FromStr;

use async_nats::HeaderMap;
use rand::RngExt;

/// The header that carries the trace id.
pub const TRACEPARENT: &str = "traceparent";

/// What ties together everything done for one command: 16 bytes, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(u128);

/// The text is no trace id or traceparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C trace id")]
pub struct InvalidTraceId;

impl TraceId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::rng().random_range(1..=u128::MAX))
    }

    /// The id of a `traceparent` value: `00-<32 hex>-<16 hex>-<2 hex>`, later versions included.
    ///
    /// # Errors
    /// If it is not of that form, or the id is all zeros.
    pub fn from_traceparent(value: &str) -> Result<Self, InvalidTraceId> {
        let mut parts = value.split('-');
        let version = parts.next().ok_or(InvalidTraceId)?;
        let id = parts.next().ok_or(InvalidTraceId)?;
        let (parent, flags) = (parts.next().ok_or(InvalidTraceId)?, parts.next());
        let lengths = (version.len(), parent.len(), flags.map(str::len));
        if version == "ff" || lengths != (2, 16, Some(2)) {
            return Err(InvalidTraceId);
        }
        id.parse()
    }

    /// A `traceparent` value with this id and a new random span id.
    #[must_use]
    pub fn to_traceparent(self) -> String {
        let span = rand::rng().random_range(1..=u64::MAX);
        format!("00-{self}-{span:016x}-01")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceId {
    type Err = InvalidTraceId;

    fn from_str(text: &str) -> Result<Self, InvalidTraceId> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(hex) {
            return Err(InvalidTraceId);
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) | Err(_) => Err(InvalidTraceId),
            Ok(id) => Ok(Self(id)),
        }
    }
}

/// Puts the trace id into `headers`, in place of one that is there.
#[must_use]
pub fn with_trace(mut headers: HeaderMap, trace: TraceId) -> HeaderMap {
    headers.insert(TRACEPARENT, trace.to_traceparent());
    headers
}

/// The trace id in a message's headers; a malformed one counts as none.
#[must_use]
pub fn trace_of(headers: Option<&HeaderMap>) -> Option<TraceId> {
    TraceId::from_traceparent(headers?.get(TRACEPARENT)?.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_survives_the_header() {
        let trace = TraceId::random();
        let headers = with_trace(HeaderMap::new(), trace);
        assert_eq!(trace_of(Some(&headers)), Some(trace));
        assert_eq!(trace_of(None), None);
    }

    #[test]
    fn only_w3c_traceparents_are_read() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let read = |text: &str| TraceId::from_traceparent(text).map(|id| id.to_string());
        assert_eq!(
            read(&format!("00-{id}-b7ad6b7169203331-01")),
            Ok(id.to_owned())
        );
        assert_eq!(
            read(&format!("01-{id}-b7ad6b7169203331-01-more")),
            Ok(id.to_owned())
        );
        for wrong in [
            "",
            "00",
            id,
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-01",
        ] {
            assert_eq!(read(wrong), Err(InvalidTraceId), "{wrong}");
        }
    }
}
