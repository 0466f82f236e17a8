//! The settings of the streams, and what of an existing stream has to change.

use std::time::Duration;

use protocol::subject::Subject;
use serde_json::{Map, Value, json};

use super::{LEASE_BUCKET, LOG_STREAM, TopologyConfig, TopologyError};

/// Settings of a stream, by their names in the API.
pub(super) type Settings = Map<String, Value>;

/// The stream below the lease bucket.
pub(super) const LEASE_STREAM: &str = "KV_NATTER_LEASE";

/// How long the broker remembers message ids: as short as it allows, since we use none.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// How long the marker of an expired lease stays.
const LEASE_MARKER_TTL: Duration = Duration::from_secs(10);

pub(super) fn log_settings(config: &TopologyConfig) -> Settings {
    object(json!({
        "name": LOG_STREAM,
        "description": "natter's log: every event, in group commits per partition",
        "subjects": [Subject::Logs.to_string()],
        "storage": "file",
        "retention": "limits",
        "num_replicas": config.stream_replicas,
        "max_age": nanos(Duration::from_secs(config.stream_max_age_seconds)),
        // Limits by age only: the last record of a partition must outlive everything before it, and
        // a limit that someone adds by hand must refuse the new, not forget the old.
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "discard": "new",
        "discard_new_per_subject": false,
        "deny_delete": true,
        "deny_purge": true,
        "allow_rollup_hdrs": false,
        "allow_msg_ttl": false,
        "allow_direct": true,
        "no_ack": false,
        "sealed": false,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        // `{{wildcard(1)}}` is the partition, so this is `live.<p>`.
        "republish": {
            "src": Subject::Logs.to_string(),
            "dest": Subject::Lives.to_string().replace('*', "{{wildcard(1)}}"),
        },
    }))
}

pub(super) fn lease_settings(config: &TopologyConfig) -> Settings {
    object(json!({
        "name": LEASE_STREAM,
        "description": "natter's leases: who works on which partition",
        "subjects": [format!("$KV.{LEASE_BUCKET}.>")],
        "storage": "memory",
        "retention": "limits",
        "num_replicas": config.stream_replicas,
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": 1,
        "max_msg_size": -1,
        "discard": "new",
        "deny_delete": true,
        "deny_purge": false,
        "allow_rollup_hdrs": true,
        "allow_msg_ttl": true,
        "subject_delete_marker_ttl": nanos(LEASE_MARKER_TTL),
        "allow_direct": true,
        "sealed": false,
    }))
}

/// The settings that have to change, or the first that had to and cannot.
pub(super) fn changes(
    stream: &'static str,
    found: &Settings,
    wanted: &Settings,
) -> Result<Settings, TopologyError> {
    let mut changes = Settings::new();
    for (setting, wanted) in wanted {
        let found = found.get(setting).unwrap_or(&Value::Null);
        if same(found, wanted) || (setting == "max_age" && keeps_longer(found, wanted)) {
            continue;
        }
        if is_fixed(setting, found) {
            return Err(TopologyError::Incompatible {
                stream,
                setting: setting.clone(),
                found: found.clone(),
                wanted: wanted.clone(),
            });
        }
        changes.insert(setting.clone(), wanted.clone());
    }
    Ok(changes)
}

/// Whether the server refuses to change this setting from what it is.
fn is_fixed(setting: &str, found: &Value) -> bool {
    match setting {
        "storage" | "retention" => true,
        // These can be switched on, never off.
        "sealed" | "deny_delete" | "deny_purge" | "allow_msg_ttl" => {
            same(found, &Value::Bool(true))
        }
        _ => false,
    }
}

/// The server leaves out what is at its default, and tells no limit as 0 or -1.
fn same(found: &Value, wanted: &Value) -> bool {
    let plain = |value: &Value| match value {
        Value::Null | Value::Bool(false) => Value::Null,
        Value::Number(number) if number.as_i64().is_some_and(|number| number <= 0) => Value::Null,
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .filter(|(_, v)| **v != Value::Bool(false))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        ),
        other => other.clone(),
    };
    plain(found) == plain(wanted)
}

/// An age of 0 keeps for ever. History raises the age when it falls behind, and a start must not undo that.
fn keeps_longer(found: &Value, wanted: &Value) -> bool {
    match (found.as_u64(), wanted.as_u64()) {
        (Some(0), Some(_)) => true,
        (Some(found), Some(wanted)) => wanted != 0 && found > wanted,
        (None, _) | (_, None) => false,
    }
}

pub(super) fn object(value: Value) -> Settings {
    match value {
        Value::Object(entries) => entries,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Settings::new()
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Settings {
        log_settings(&TopologyConfig::default())
    }

    fn changed(found: &Settings) -> Vec<String> {
        changes(LOG_STREAM, found, &wanted())
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    #[test]
    fn a_stream_in_shape_is_left_alone() {
        let mut found = wanted();
        assert_eq!(changed(&found), Vec::<String>::new());
        // The server leaves out defaults, and tells what we have not asked for.
        found.retain(|_, value| *value != Value::Bool(false));
        found.insert("max_bytes".into(), json!(0));
        found.insert("compression".into(), json!("s2"));
        assert_eq!(changed(&found), Vec::<String>::new());
    }

    #[test]
    fn what_has_drifted_is_brought_back() {
        let mut found = wanted();
        found.insert("max_msgs".into(), json!(1_000));
        found.insert("deny_purge".into(), json!(false));
        found.remove("republish");
        assert_eq!(changed(&found), ["deny_purge", "max_msgs", "republish"]);
    }

    #[test]
    fn a_setting_that_cannot_change_is_named() {
        for (setting, value) in [
            ("storage", json!("memory")),
            ("retention", json!("workqueue")),
            ("sealed", json!(true)),
            ("allow_msg_ttl", json!(true)),
        ] {
            let mut found = wanted();
            found.insert(setting.into(), value);
            let error = changes(LOG_STREAM, &found, &wanted()).unwrap_err();
            assert!(error.to_string().contains(setting), "{error}");
        }
    }

    #[test]
    fn an_age_that_was_raised_is_not_lowered_again() {
        let mut found = wanted();
        found.insert("max_age".into(), json!(nanos(Duration::from_secs(900_000))));
        assert_eq!(changed(&found), Vec::<String>::new());
        found.insert("max_age".into(), json!(0));
        assert_eq!(changed(&found), Vec::<String>::new());
        found.insert("max_age".into(), json!(nanos(Duration::from_secs(60))));
        assert_eq!(changed(&found), ["max_age"]);
    }
}
