//! Which web pages may open a socket: a browser sends the page's origin, and cookies or not, a page
//! of somebody else has no business here.

/// Whether a page of `origin` may connect to a server that was addressed as `host`.
///
/// No origin means no web page. The own host is always allowed, other origins if they are listed, and an
/// empty one, which stands for what cannot be read, never.
#[must_use]
pub fn is_allowed(origin: Option<&str>, host: Option<&str>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    // A list that was not set has one entry, which is empty too.
    if origin.is_empty() {
        return false;
    }
    if allowed
        .iter()
        .any(|known| known == "*" || known.eq_ignore_ascii_case(origin))
    {
        return true;
    }
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_host_and_listed_origins_are_allowed() {
        let list = vec!["https://chat.example".to_owned()];
        let host = Some("localhost:8080");
        for (origin, expected) in [
            (None, true),
            (Some("http://localhost:8080"), true),
            (Some("https://Chat.example"), true),
            (Some("http://localhost:9999"), false),
            (Some("https://chat.example.evil"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            assert_eq!(is_allowed(origin, host, &list), expected, "{origin:?}");
        }
        assert!(is_allowed(
            Some("https://evil.example"),
            host,
            &["*".to_owned()]
        ));
        assert!(!is_allowed(Some("http://localhost:8080"), None, &list));
        assert!(!is_allowed(Some(""), host, &[String::new()]));
    }
}
