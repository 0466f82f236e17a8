//! Where one user connects, as whom.

use std::sync::Arc;

use client::TokenSource;

/// An address and an identity.
#[derive(Clone)]
pub(crate) struct Place {
    /// Address of the socket, with its path.
    pub(crate) url: String,
    pub(crate) tokens: Arc<dyn TokenSource>,
    /// Name of the application, for the server's logs.
    pub(crate) app: String,
}
