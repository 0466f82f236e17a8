//! Where one user connects, as whom.

use std::sync::Arc;

use client::TokenSource;

/// An address and an identity.
#[derive(Clone)]
pub(crate) struct Place {
    /// Addresses of the socket, with their paths; each new socket goes to the next.
    pub(crate) urls: Vec<String>,
    pub(crate) tokens: Arc<dyn TokenSource>,
    /// Name of the application, for the server's logs.
    pub(crate) app: String,
}
