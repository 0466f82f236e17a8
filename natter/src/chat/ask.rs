//! What the chat asks the server for: rooms, members, older messages. Each answer comes back as one
//! [`Answer`], so that talking goes on meanwhile.

use client::{Client, ClientError, Line, RoomView};
use futures_util::FutureExt as _;
use protocol::RoomId;
use protocol::command::Create;
use protocol::event::RoomKind;
use protocol::frame::listing::PublicRoom;

use super::{Answer, Chat, HISTORY_LINES, say, show};

impl Chat {
    pub(super) fn ask(
        &mut self,
        answer: impl Future<Output = Result<Answer, ClientError>> + Send + 'static,
    ) {
        let answer = answer.map(|result| result.unwrap_or_else(|e| Answer::Failed(e.to_string())));
        self.answers.push(answer.boxed());
    }

    pub(super) fn join(&mut self, room: RoomId) {
        let client = self.client.clone();
        self.ask(async move {
            client.join(&room).await?.stored().await?;
            Ok(Answer::Go(room))
        });
    }

    /// Finds a public room of this name and joins it, or makes one.
    pub(super) fn find(&mut self, name: String, make: bool) {
        let client = self.client.clone();
        self.ask(async move {
            let is_it = |room: &&PublicRoom| room.name == name;
            let mut cursor = None;
            loop {
                let page = client.discover(Some(name.clone()), cursor).await?;
                if let Some(found) = page.rooms.iter().find(is_it) {
                    if found.role.is_none() {
                        client.join(&found.room).await?.stored().await?;
                    }
                    return Ok(Answer::Go(found.room.clone()));
                }
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            if !make {
                return Ok(Answer::Failed(format!(
                    "there is no public room {name}; /create makes one"
                )));
            }
            create(&client, name).await
        });
    }

    pub(super) async fn older(&mut self, room: RoomId) -> anyhow::Result<()> {
        let Some(view) = self.client.view(&room).await? else {
            return Ok(());
        };
        let oldest = view.lines.iter().find_map(|line| match line {
            Line::Stored { entry, .. } => Some(entry.event.seq),
            Line::Pending { .. } => None,
        });
        let (client, me) = (self.client.clone(), self.me.clone());
        self.ask(async move {
            let page = client.history(&room, oldest, HISTORY_LINES).await?;
            let lines = page
                .events
                .into_iter()
                .map(|entry| Line::Stored {
                    entry: Box::new(entry),
                    pending: false,
                })
                .collect();
            let view = RoomView { lines, ..*view };
            Ok(Answer::Lines(show::view(&view, usize::MAX, me.as_ref())))
        });
        Ok(())
    }

    pub(super) fn list_members(&mut self, room: RoomId) {
        let client = self.client.clone();
        self.ask(async move {
            let mut lines = Vec::new();
            let mut cursor = None;
            loop {
                let page = client.members(&room, cursor).await?;
                lines.extend(
                    page.members
                        .iter()
                        .map(|m| format!("  {} ({})", m.user, m.role.as_str())),
                );
                cursor = page.next;
                if cursor.is_none() {
                    lines.push(format!("-- {} members", lines.len()));
                    return Ok(Answer::Lines(lines));
                }
            }
        });
    }

    pub(super) async fn list_rooms(&mut self) -> anyhow::Result<()> {
        say("-- your rooms");
        let rooms = self.client.rooms().await?;
        for snapshot in rooms
            .iter()
            .filter(|snapshot| snapshot.kind != RoomKind::Own)
        {
            say(&show::room(snapshot));
        }
        let client = self.client.clone();
        self.ask(async move {
            let page = client.discover(None, None).await?;
            let public = page.rooms.iter().filter(|room| room.role.is_none());
            let mut lines = vec!["-- public rooms you are not in".to_owned()];
            lines.extend(public.map(|room| {
                let (name, members, id) = (show::harmless(&room.name), room.members, &room.room);
                format!("  {name}  ({members} members)  {id}")
            }));
            Ok(Answer::Lines(lines))
        });
        Ok(())
    }
}

pub(super) async fn create(client: &Client, name: String) -> Result<Answer, ClientError> {
    let (kind, topic, members, history) = (RoomKind::Public, None, Vec::new(), None);
    let create = Create {
        kind,
        name: Some(name),
        topic,
        members,
        history,
    };
    let made = client.create(create).await?.stored().await?;
    Ok(made.room.map_or_else(
        || Answer::Failed("the server named no room".to_owned()),
        Answer::Go,
    ))
}
