//! The open sockets by user and device: caps, replacement, and how to reach them.

use protocol::error::CloseCode;
use protocol::limits::{DEVICE_SOCKETS_MAX, USER_SOCKETS_MAX};
use protocol::{ConnId, DeviceId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The way to close a socket from another thread; the first code counts.
#[derive(Debug, Clone)]
pub struct Control(Arc<Mutex<Option<oneshot::Sender<CloseCode>>>>);

impl Control {
    /// A control, and what its socket waits for.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<CloseCode>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Asks the socket to close with this code.
    pub fn close(&self, code: CloseCode) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // A socket that is gone needs no closing.
            sender.send(code).ok();
        }
    }
}

#[derive(Debug)]
struct Connection {
    conn: ConnId,
    device: Option<DeviceId>,
    control: Control,
}

/// All authenticated sockets of this process.
#[derive(Debug, Default)]
pub struct Connections {
    users: Mutex<HashMap<UserId, Vec<Connection>>>,
}

impl Connections {
    /// Counts a socket in. The oldest of its device makes way if there are too many of that one.
    ///
    /// # Errors
    /// The close code for a socket beyond the user's cap.
    pub fn admit(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        conn: &ConnId,
        control: &Control,
    ) -> Result<(), CloseCode> {
        let mut users = self.lock();
        let sockets = users.entry(user.clone()).or_default();
        if let Some(device) = device {
            let same = |known: &Connection| known.device.as_ref() == Some(device);
            while sockets.iter().filter(|known| same(known)).count() >= DEVICE_SOCKETS_MAX {
                let Some(oldest) = sockets.iter().position(same) else {
                    break;
                };
                sockets.remove(oldest).control.close(CloseCode::Replaced);
            }
        }
        if sockets.len() >= USER_SOCKETS_MAX {
            return Err(CloseCode::TooManyConnections);
        }
        sockets.push(Connection {
            conn: conn.clone(),
            device: device.cloned(),
            control: control.clone(),
        });
        Ok(())
    }

    /// Counts a socket out; one that was never in is no mistake.
    pub fn remove(&self, user: &UserId, conn: &ConnId) {
        let mut users = self.lock();
        if let Some(sockets) = users.get_mut(user) {
            sockets.retain(|known| known.conn != *conn);
            if sockets.is_empty() {
                users.remove(user);
            }
        }
    }

    /// Whether the user has a socket here.
    #[must_use]
    pub fn has(&self, user: &UserId) -> bool {
        self.lock().contains_key(user)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Connection>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Open = (oneshot::Receiver<CloseCode>, Result<(), CloseCode>);

    fn open(connections: &Connections, device: &str, n: usize) -> Open {
        let (control, closed) = Control::new();
        let device = DeviceId::parse(device).ok();
        let conn = ConnId::parse(&format!("c{n}")).unwrap();
        let user = UserId::parse("alice").unwrap();
        let admitted = connections.admit(&user, device.as_ref(), &conn, &control);
        (closed, admitted)
    }

    #[test]
    fn a_third_socket_of_a_device_replaces_the_oldest() {
        let connections = Connections::default();
        let mut sockets: Vec<_> = (0..4).map(|n| open(&connections, "d1", n)).collect();
        let codes: Vec<_> = sockets
            .iter_mut()
            .map(|(closed, _)| closed.try_recv().ok())
            .collect();
        let replaced = Some(CloseCode::Replaced);
        assert_eq!(codes, [replaced, replaced, None, None]);
    }

    #[test]
    fn a_user_has_at_most_32_sockets_and_room_again_after_one_went() {
        let connections = Connections::default();
        for n in 0..USER_SOCKETS_MAX {
            assert_eq!(open(&connections, &format!("d{n}"), n).1, Ok(()));
        }
        assert_eq!(
            open(&connections, "new", 99).1,
            Err(CloseCode::TooManyConnections)
        );
        let alice = UserId::parse("alice").unwrap();
        connections.remove(&alice, &ConnId::parse("c5").unwrap());
        assert_eq!(open(&connections, "new", 99).1, Ok(()));
        for n in 0..100 {
            connections.remove(&alice, &ConnId::parse(&format!("c{n}")).unwrap());
        }
        assert!(!connections.has(&alice));
    }

    #[test]
    fn a_socket_hears_the_first_code_only_also_if_it_listens_late() {
        let (control, mut closed) = Control::new();
        control.close(CloseCode::Replaced);
        control.close(CloseCode::Restart);
        assert_eq!(closed.try_recv(), Ok(CloseCode::Replaced));
    }
}
