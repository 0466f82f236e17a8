//! Where a run takes place: addresses, tokens, names, and the handles that everybody shares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, Config, Follow, Store};
use protocol::UserId;
use protocol::frame::Window;

use super::Args;
use super::place::Place;
use super::prints::Prints;
use super::progress::Progress;
use super::relay::Relay;
use super::tokens::{Issuer, Secret};
use crate::dev_token::DevServer;

/// Between two looks at something that must come about.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a question of a client may take; it is asked again while there is patience.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// What every part of a run needs.
pub(crate) struct Stage {
    pub(crate) args: Args,
    pub(crate) progress: Arc<Progress>,
    pub(crate) prints: Arc<Prints>,
    pub(crate) seed: u64,
    urls: Vec<String>,
    issuer: Issuer,
    /// For those whose sockets are lost without a word.
    pub(crate) relays: Vec<Relay>,
    run: String,
}

impl Stage {
    /// # Errors
    /// An address is none, or the secret cannot be read.
    pub(crate) async fn new(args: &Args, progress: &Arc<Progress>) -> anyhow::Result<Self> {
        let first = args.urls.first().context("no address")?;
        let issuer = match &args.hs256_secret_file {
            Some(file) => Issuer::Secret(Secret::read(file, &args.issuer, &args.audience)?),
            None => Issuer::Dev(DevServer::of(first)?),
        };
        let mut relays = Vec::new();
        if args.resumes > 0.0 {
            for url in &args.urls {
                relays.push(Relay::to(url).await?);
            }
        }
        let run = format!("b{:08x}", rand::random::<u32>());
        Ok(Self {
            args: args.clone(),
            progress: Arc::clone(progress),
            prints: Arc::default(),
            seed: args.seed.unwrap_or_else(rand::random),
            urls: args.urls.clone(),
            issuer,
            relays,
            run,
        })
    }

    /// A name that no other run uses.
    pub(crate) fn name(&self, role: &str, number: usize) -> String {
        format!("{}-{role}-{number}", self.run)
    }

    /// Where the user with this name connects.
    pub(crate) fn place(&self, name: &str, role: &str, number: usize) -> Place {
        // An address without a path gets the path of the protocol.
        let whole = |url: &String| Config::new(url, self.issuer.tokens_of(name)).url;
        let mut urls: Vec<String> = self.urls.iter().map(whole).collect();
        urls.rotate_left(number % self.urls.len());
        Place {
            urls,
            tokens: self.issuer.tokens_of(name),
            app: app(role),
        }
    }

    /// Opens a client; one in eight of those who write can be cut off.
    pub(crate) fn client(
        &self,
        name: &str,
        (role, number): (&str, usize),
        follow: Follow,
    ) -> anyhow::Result<Client> {
        let url = self.url(number);
        let relay = self.relays.get(number % self.urls.len());
        let url = match relay.filter(|_| is_cuttable(role, number)) {
            Some(relay) => relay.url(url)?,
            None => url.to_owned(),
        };
        let mut config = Config::new(&url, self.issuer.tokens_of(name));
        config.app = Some(app(role));
        config.window = Window { rooms: 0, tl: 0 };
        config.follow = follow;
        config.read_within = READ_WITHIN;
        Ok(Client::open(config, Store::memory())?)
    }

    /// Waits until a server has told who this client's user is.
    ///
    /// # Errors
    /// Patience has run out, or the client may not connect.
    pub(crate) async fn user_of(&self, client: &Client) -> anyhow::Result<UserId> {
        loop {
            let status = client.status().await?;
            if let Some(user) = status.user {
                self.progress.moved();
                return Ok(user);
            }
            if let client::ConnectionState::Stopped(reason) = status.connection {
                anyhow::bail!("no connection is possible: {reason:?}");
            }
            anyhow::ensure!(
                !self.progress.is_over(),
                "no connection to {}; is `natter dev` running?",
                self.urls.join(", ")
            );
            self.progress.pause(LOOK_INTERVAL).await;
        }
    }

    /// How many clients can be cut off.
    pub(crate) fn cuttable(&self) -> usize {
        let senders = self.args.rooms * self.args.members;
        let senders = (0..senders).filter(|number| is_cuttable("sender", *number));
        senders.count() + self.args.observers / 4
    }

    fn url(&self, number: usize) -> &str {
        &self.urls[number % self.urls.len()]
    }
}

/// Whether this client's connection can be lost without a word: who views, and one in eight who write.
fn is_cuttable(role: &str, number: usize) -> bool {
    role == "viewer" || (role == "sender" && number.is_multiple_of(8))
}

fn app(role: &str) -> String {
    format!("natter-bench-{role}/{}", env!("CARGO_PKG_VERSION"))
}
