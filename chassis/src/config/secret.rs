//! A secret setting: shown as `***`, wiped when dropped, given directly or as a file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use super::Problems;

/// A secret; its `Debug` is `***`.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The secret from its setting `name`, or from the file that `NAME_FILE` names.
    ///
    /// Adds a mistake if both are given, or if the file cannot be read or is empty. A line break at
    /// the file's end is not part of the secret.
    pub fn resolve(
        name: &str,
        value: Option<&Self>,
        file: Option<&Path>,
        problems: &mut Problems,
    ) -> Option<Self> {
        match (value, file) {
            (None, None) => None,
            (Some(value), None) => Some(value.clone()),
            (Some(_), Some(_)) => {
                problems.add(
                    name,
                    format_args!("set together with {name}_FILE; leave one out"),
                );
                None
            }
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                    problems.add(&format!("{name}_FILE"), "the file is empty");
                    None
                }
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).into()),
                Err(error) => {
                    problems.add(
                        &format!("{name}_FILE"),
                        format_args!("reading {} failed: {error}", path.display()),
                    );
                    None
                }
            },
        }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(SecretString::from(text))
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(value: Option<&str>, file: Option<&Path>) -> Result<Option<String>, String> {
        let mut problems = Problems::new();
        let value = value.map(Secret::from);
        let secret = Secret::resolve("NATTER_KEY", value.as_ref(), file, &mut problems);
        match problems.finish() {
            Ok(()) => Ok(secret.map(|secret| secret.expose().to_owned())),
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Some(Secret::from("hunter2"))), "Some(***)");
    }

    #[test]
    fn a_secret_comes_from_its_setting_or_its_file() {
        let path = std::env::temp_dir().join(format!("natter-secret-{}", std::process::id()));
        std::fs::write(&path, "from file\n").unwrap();
        assert_eq!(
            resolved(Some("direct"), None).unwrap().as_deref(),
            Some("direct")
        );
        assert_eq!(
            resolved(None, Some(&path)).unwrap().as_deref(),
            Some("from file")
        );
        assert_eq!(resolved(None, None).unwrap(), None);
        assert!(
            resolved(Some("direct"), Some(&path))
                .unwrap_err()
                .contains("NATTER_KEY_FILE")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(
            resolved(None, Some(&path))
                .unwrap_err()
                .contains("NATTER_KEY_FILE")
        );
    }
}
