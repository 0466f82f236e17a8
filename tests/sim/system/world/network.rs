//! Sockets between devices and gateways: ordered while they last, and cut at any place.

use super::super::wire::Listener;
use super::{GATEWAYS, Link, World};
use client::Follow;
use client::connection::LinkId;
use client::core::Output;
use protocol::error::CloseCode;

/// Messages that a socket's buffers hold: beyond, its session keeps them.
const BUFFERED: usize = 3;

impl World {
    /// Does what a device's core says.
    pub(super) fn device_acts(&mut self, index: usize) -> Result<(), String> {
        let outputs = self.devices[index].act(&self.stream)?;
        if self.devices[index].core.is_none() {
            self.drop_links_of(index);
            return Ok(());
        }
        for output in outputs {
            match output {
                Output::Open { link, .. } => self.open(index, link),
                Output::Close { link, .. } => self.drop_link(index, link),
                Output::Transmit { link, text } => {
                    if let Some(link) = self.links.get_mut(&(index, link)) {
                        link.up.push_back(text);
                    }
                }
                Output::Refresh { .. }
                | Output::Save(_)
                | Output::Show(_)
                | Output::Answer { .. } => {}
            }
        }
        Ok(())
    }

    fn open(&mut self, index: usize, link: LinkId) {
        self.devices[index].forget_link(link);
        let gateway = self.rng.index(GATEWAYS);
        let link_state = Link {
            gateway,
            ..Link::default()
        };
        self.links.insert((index, link), link_state);
    }

    /// The client's end is gone; the server finds out later.
    fn drop_link(&mut self, index: usize, link: LinkId) {
        self.devices[index].forget_link(link);
        if let Some(link) = self.links.remove(&(index, link))
            && link.open
        {
            self.orphans.push((link.gateway, link.life, link.socket));
        }
    }

    pub(super) fn drop_links_of(&mut self, index: usize) {
        let links = self.links.keys().filter(|(device, _)| *device == index);
        let links: Vec<LinkId> = links.map(|(_, link)| *link).collect();
        links
            .into_iter()
            .for_each(|link| self.drop_link(index, link));
    }

    /// A socket is cut: some of what was on its way still arrives.
    pub(super) fn cut(&mut self) {
        let open: Vec<(usize, LinkId)> = self.links.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let key = *self.rng.pick(&open);
        let Some(link) = self.links.get_mut(&key).filter(|link| link.open) else {
            return;
        };
        self.counts.cuts += 1;
        link.up.clear();
        let kept = self.rng.index(link.down.len() + 1);
        link.down.truncate(kept);
        link.closed.get_or_insert(None);
        self.orphans.push((link.gateway, link.life, link.socket));
    }

    /// A peer takes nothing for a while.
    pub(super) fn stall(&mut self) {
        let open: Vec<(usize, LinkId)> = self.links.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let key = *self.rng.pick(&open);
        let until = self.now_ms + self.rng.below(3_000) as i64;
        if let Some(link) = self.links.get_mut(&key) {
            link.stalled_until_ms = until;
        }
    }

    /// A gateway finds that a client is gone.
    pub(super) fn bury(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let index = self.rng.index(self.orphans.len());
        let (gateway, life, socket) = self.orphans.swap_remove(index);
        if let Some(gateway) = self.gateways[gateway].as_mut()
            && gateway.life == life
        {
            gateway.sockets.remove(&socket);
        }
    }

    /// One socket moves something.
    pub(super) fn move_link(&mut self) -> Result<(), String> {
        if self.links.is_empty() {
            return Ok(());
        }
        let nth = self.rng.index(self.links.len());
        let Some((key, link)) = self.links.iter().nth(nth) else {
            return Ok(());
        };
        let key = *key;
        let stalled = !self.calm && self.now_ms < link.stalled_until_ms;
        if !link.open && link.closed.is_none() {
            return self.connect(key);
        }
        let (up, down) = (!link.up.is_empty(), !link.down.is_empty() && !stalled);
        match (up, down) {
            (true, true) if self.rng.chance(50) => self.hear_up(key),
            (true, false) => self.hear_up(key),
            (_, true) => self.hear_down(key),
            (false, false) if link.closed.is_some() && !stalled => self.hear_closed(key),
            (false, false) => Ok(()),
        }
    }

    fn connect(&mut self, (index, link): (usize, LinkId)) -> Result<(), String> {
        self.sockets += 1;
        let (socket, now_ms) = (self.sockets, self.now_ms);
        let refused = self.is_lost(5);
        let Some(state) = self.links.get_mut(&(index, link)) else {
            return Ok(());
        };
        let gateway = self.gateways[state.gateway].as_mut();
        let Some(gateway) = gateway.filter(|_| !refused) else {
            state.closed = Some(None);
            return Ok(());
        };
        gateway.open(now_ms, socket);
        (state.open, state.life, state.socket) = (true, gateway.life, socket);
        let device = &mut self.devices[index];
        device.greets();
        let (now, token) = (device.now(now_ms), device.user.to_string());
        if let Some(core) = &mut device.core {
            core.handle_opened(link, &token, now);
        }
        self.device_acts(index)
    }

    fn hear_up(&mut self, key: (usize, LinkId)) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(link) = self.links.get_mut(&key) else {
            return Ok(());
        };
        let (index, life, socket) = (link.gateway, link.life, link.socket);
        let Some(text) = link.up.pop_front() else {
            return Ok(());
        };
        let gateway = self.gateways[index].as_mut();
        let Some(gateway) = gateway.filter(|gateway| gateway.life == life) else {
            return Ok(());
        };
        gateway.step(now_ms, socket, |session, now, outside| {
            session.handle_text(now, &text, outside);
        });
        self.trace(|| format!("gateway {index} hears of {socket}: {text}"));
        self.settle(index)
    }

    fn hear_down(&mut self, key: (usize, LinkId)) -> Result<(), String> {
        let (index, id) = key;
        let forgives_gaps = self.lost_records() > 0;
        let Some(link) = self.links.get_mut(&key) else {
            return Ok(());
        };
        let Some(text) = link.down.pop_front() else {
            return Ok(());
        };
        let (from, socket) = (link.gateway, link.socket);
        let device = &mut self.devices[index];
        let listener = Listener {
            user: &device.user,
            seen: &device.seen,
            shows_as_told: device.follow == Follow::Timeline,
            forgives_gaps,
        };
        let lagged = link.heard.hear(&text, &listener, &self.stream);
        device.counts.lagged += lagged.map_err(|what| format!("on socket {socket}: {what}"))?;
        let now = device.now(self.now_ms);
        if let Some(core) = &mut device.core {
            core.handle_text(id, &text, now);
        }
        self.trace(|| format!("device {index} hears of {socket}: {text}"));
        self.device_acts(index)?;
        let open = self.links.keys().filter(|(device, _)| *device == index);
        if open.count() > 1 {
            // What one gateway has told, another need not know.
            self.devices[index].acked.clear();
        }
        self.settle(from)
    }

    fn hear_closed(&mut self, key: (usize, LinkId)) -> Result<(), String> {
        let (index, id) = key;
        let Some(link) = self.links.remove(&key) else {
            return Ok(());
        };
        let close = link.closed.flatten().map(|code| (code, String::new()));
        self.trace(|| format!("device {index} finds socket {} closed", link.socket));
        let device = &mut self.devices[index];
        device.forget_link(id);
        let now = device.now(self.now_ms);
        if let Some(core) = &mut device.core {
            core.handle_closed(id, close, now);
        }
        self.device_acts(index)
    }

    /// A gateway dies: its clients find out when they have heard what was on its way.
    pub(super) fn gateway_dies(&mut self, index: usize) {
        let Some(gateway) = self.gateways[index].take() else {
            return;
        };
        self.counts.gateways_died += 1;
        self.trace(|| format!("gateway {index} dies"));
        self.take_counts(&gateway);
        let mut dead: Vec<&mut Link> = self
            .links
            .values_mut()
            .filter(|link| link.open && link.gateway == index && link.life == gateway.life)
            .collect();
        for link in &mut dead {
            let kept = self.rng.index(link.down.len() + 1);
            link.down.truncate(kept);
            link.closed.get_or_insert(None);
        }
        self.attempts
            .retain(|_, attempt| attempt.to.life != gateway.life);
        self.questions.retain(|_, (to, _)| to.life != gateway.life);
    }

    /// Writes what waits in a gateway's sockets, and begins what their sessions want.
    pub(super) fn settle(&mut self, index: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let keys = self
            .links
            .iter()
            .filter(|(_, link)| link.gateway == index && link.open);
        let keys: Vec<(usize, LinkId)> = keys.map(|(key, _)| *key).collect();
        for key in keys {
            let Some(gateway) = self.gateways[index].as_mut() else {
                return Ok(());
            };
            let Some(link) = self.links.get_mut(&key) else {
                continue;
            };
            if link.life != gateway.life || link.closed.is_some() {
                continue;
            }
            let socket = link.socket;
            while link.down.len() < BUFFERED {
                let written = gateway.step(now_ms, socket, |session, now, outside| {
                    let message = session.poll_message();
                    if message.is_some() && session.waits_for_room() {
                        session.pump(now, outside);
                    }
                    message
                });
                let Some((text, _)) = written.flatten() else {
                    break;
                };
                link.down.push_back(text.to_string());
            }
            let session = gateway.sockets.get(&socket).map(|socket| &socket.session);
            if let Some(code) = session.and_then(|session| session.closing())
                && session.is_some_and(|session| session.is_quiet())
            {
                link.closed = Some(Some(code.number()));
                let unknown = session.is_some_and(|session| session.user().is_none());
                gateway.sockets.remove(&socket);
                match code {
                    CloseCode::LagUnrecoverable | CloseCode::HeartbeatTimeout => {}
                    // Its hello did not come in time.
                    CloseCode::AuthFailed if unknown => {}
                    other => return Err(format!("a gateway closes a socket with {other:?}")),
                }
            }
        }
        self.begin_actions(index)
    }
}
