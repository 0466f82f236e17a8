//! Configuration of the gateway; the doc comments are the reference.

use crate::auth::Auth;
use chassis::config::Problems;
use clap::Args;
use protocol::limits;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Keys and claims of the tokens.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct AuthArgs {
    /// File whose bytes, without trailing white space, are the HMAC key of HS256 tokens.
    ///
    /// No default; this or the Ed25519 key is needed.
    #[arg(
        long = "jwt-hs256-secret-file",
        env = "NATTER_JWT_HS256_SECRET_FILE",
        id = "hs256_secret_file"
    )]
    pub hs256_secret_file: Option<PathBuf>,
    /// PEM file with the Ed25519 public key of EdDSA tokens.
    ///
    /// No default; this or the HMAC key is needed.
    #[arg(
        long = "jwt-eddsa-public-key-file",
        env = "NATTER_JWT_EDDSA_PUBLIC_KEY_FILE",
        id = "eddsa_public_key_file"
    )]
    pub eddsa_public_key_file: Option<PathBuf>,
    /// The only issuer (`iss`) whose tokens are taken.
    ///
    /// The default is that of `natter token`.
    #[arg(
        long = "jwt-issuer",
        env = "NATTER_JWT_ISSUER",
        id = "jwt_issuer",
        default_value = "natter-dev"
    )]
    pub issuer: String,
    /// What a token's audience (`aud`) must contain.
    ///
    /// The default is that of `natter token`.
    #[arg(
        long = "jwt-audience",
        env = "NATTER_JWT_AUDIENCE",
        id = "jwt_audience",
        default_value = "natter"
    )]
    pub audience: String,
    /// Let anybody have a token from POST /v1/dev/token.
    ///
    /// Off by default: it is for development only.
    #[arg(
        long = "dev-tokens",
        env = "NATTER_DEV_TOKENS",
        id = "dev_tokens",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        action = clap::ArgAction::Set
    )]
    pub dev_tokens: bool,
}

/// The gateway's configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Gateway")]
#[group(id = "gateway")]
pub struct Config {
    /// Public address for sockets and HTTP.
    ///
    /// The default is reachable from this machine only.
    #[arg(long, env = "NATTER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Worker threads that serve sockets; 0 means one per processor.
    ///
    /// The default fits a machine that runs little else.
    #[arg(long, env = "NATTER_GATEWAY_WORKERS", default_value_t = 0)]
    pub gateway_workers: usize,
    /// Sockets at once; more are refused with 503. As many HTTP connections may be open beside them; more
    /// wait to be accepted.
    ///
    /// The default needs about 400 MB for idle sockets, at 7.5 kB for one and its user.
    #[arg(long, env = "NATTER_GATEWAY_CONNECTIONS_MAX", default_value_t = 50_000)]
    pub gateway_connections_max: usize,
    /// Origins of web pages that may open sockets, separated by commas; `*` allows all.
    ///
    /// By default none but the gateway's own host; clients that are no web pages send no origin.
    #[arg(
        long,
        env = "NATTER_GATEWAY_ORIGINS",
        default_value = "",
        value_delimiter = ','
    )]
    pub gateway_origins: Vec<String>,
    /// Bytes of recent log records kept in memory, for resuming without the database.
    ///
    /// The default holds hours of a busy team, or minutes of a flood.
    #[arg(long, env = "NATTER_GATEWAY_RING_BYTES", default_value_t = 128 * 1024 * 1024)]
    pub gateway_ring_bytes: usize,
    /// Recent log records kept in memory, whatever their size.
    ///
    /// The default bounds the work of a search in them.
    #[arg(long, env = "NATTER_GATEWAY_RING_RECORDS", default_value_t = 100_000)]
    pub gateway_ring_records: usize,
    /// Seconds for which a user's rooms are remembered after the last socket has gone.
    ///
    /// The default covers a commute through a tunnel.
    #[arg(long, env = "NATTER_GATEWAY_VIEW_SECONDS", default_value_t = 900)]
    pub gateway_view_seconds: u64,
    /// Commands per second of one user at this gateway.
    ///
    /// The default is the protocol's.
    #[arg(long, env = "NATTER_GATEWAY_USER_RATE", default_value_t = limits::USER_RATE_PER_SECOND)]
    pub gateway_user_rate: u32,
    /// Commands of one user that may come at once.
    ///
    /// The default is the protocol's.
    #[arg(long, env = "NATTER_GATEWAY_USER_BURST", default_value_t = limits::USER_RATE_BURST)]
    pub gateway_user_burst: u32,
    /// Seconds over which clients are asked to move when this gateway stops.
    ///
    /// The default spreads a full gateway's clients thinly enough; 0 closes all at once.
    #[arg(long, env = "NATTER_GATEWAY_DRAIN_SECONDS", default_value_t = 10)]
    pub gateway_drain_seconds: u64,
    /// Keys and claims of the tokens.
    #[command(flatten)]
    pub auth: AuthArgs,
}

impl Config {
    /// How long stopping may take: the drain, and a little for the rest.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.gateway_drain_seconds) + Duration::from_secs(5)
    }

    /// Adds every mistake in these settings, and reads the keys.
    pub fn check(&self, problems: &mut Problems) -> Option<Auth> {
        let positive = |n: usize| n > 0;
        problems.require(
            positive(self.gateway_connections_max),
            "NATTER_GATEWAY_CONNECTIONS_MAX",
            "must be at least 1",
        );
        problems.require(
            self.gateway_ring_bytes >= 1 << 20,
            "NATTER_GATEWAY_RING_BYTES",
            "must be at least 1048576",
        );
        problems.require(
            self.gateway_ring_records >= 100,
            "NATTER_GATEWAY_RING_RECORDS",
            "must be at least 100",
        );
        problems.require(
            self.gateway_user_rate > 0,
            "NATTER_GATEWAY_USER_RATE",
            "must be at least 1",
        );
        problems.require(
            self.gateway_user_burst >= self.gateway_user_rate,
            "NATTER_GATEWAY_USER_BURST",
            "must be at least NATTER_GATEWAY_USER_RATE",
        );
        problems.require(
            self.gateway_drain_seconds <= 600,
            "NATTER_GATEWAY_DRAIN_SECONDS",
            "must be at most 600",
        );
        Auth::load(&self.auth, problems)
    }
}
