//! Looks at the database.

use std::time::Duration;

use chassis::clock::Clock;
use chassis::tasks::chain;
use history::config::DatabaseArgs;
use history::store::examine::{Examination, examine};

/// How long it may take to answer everything.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What the database is like, and its clock minus ours in ms.
pub(super) async fn look(arguments: &DatabaseArgs) -> Result<(Examination, i64), String> {
    match tokio::time::timeout(ANSWER_MAX, try_look(arguments)).await {
        Ok(looked) => looked,
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}

async fn try_look(arguments: &DatabaseArgs) -> Result<(Examination, i64), String> {
    let connector = history::database::Connector::new(arguments).map_err(|p| p.to_string())?;
    let mut connection = connector.connect().await.map_err(|error| chain(&error))?;
    let clock = Clock::system();
    let before = clock.now_ms();
    let examination = examine(&mut connection)
        .await
        .map_err(|error| chain(&error))?;
    // Its clock was read somewhere between; a slow answer only widens what is taken for agreement.
    let middle = before + (clock.now_ms() - before) / 2;
    let offset_ms = examination.now_ms - middle;
    Ok((examination, offset_ms))
}
