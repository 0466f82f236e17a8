//! Tokens that somebody tampered with, or that an issuer made oddly: one table for the socket and for
//! HTTP, with a server that has two keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tests::http::Request;
use tests::{Claims, Closed, Socket, Stack, Tokens, now_s};

/// An Ed25519 pair made for this test with `openssl genpkey -algorithm ed25519`.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGMXEY+IiKOe+rKzyo4q4L9/drcks7UH4gBMSBj8pJf4\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAiZFc2wIzsMphKVTa2Bbk12nCx1VyLvnWO1x5aYznQVg=\n-----END PUBLIC KEY-----\n";

/// What becomes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    /// Refused: `unauthorized`, close 4500.
    Refused,
    /// Refused: `token_expired`, close 4100.
    Expired,
}
use Fate::{Expired, Refused, Taken};

/// Both keys of a server, and how to make any token with them.
struct Forge {
    tokens: Tokens,
    secret: Vec<u8>,
}

impl Forge {
    fn of(stack: &Stack) -> Self {
        let secret = std::fs::read(stack.data().join("dev-jwt.key")).expect("the key is there");
        Self {
            tokens: stack.tokens(),
            secret: secret.trim_ascii_end().to_vec(),
        }
    }

    /// A token of these texts, signed with the server's secret.
    fn raw(&self, header: &str, claims: &str) -> String {
        self.signed_with(&self.secret, header, claims)
    }

    fn signed_with(&self, secret: &[u8], header: &str, claims: &str) -> String {
        let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = message.join(".");
        let key = EncodingKey::from_secret(secret);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        format!("{message}.{}", signature.expect("HMAC cannot fail"))
    }

    /// A token with this header and otherwise good.
    fn header(&self, header: Value) -> String {
        self.raw(&header.to_string(), &good().to_string())
    }

    fn with(&self, claim: &str, value: Value) -> String {
        self.tokens.sign(&Claims::of("alice").with(claim, value))
    }

    /// A token with this in place of a claim that is otherwise good; it may be no JSON.
    fn claim(&self, claim: &str, text: &str) -> String {
        let mut claims = Claims::of("alice").0;
        claims.remove(claim);
        let rest = Value::Object(claims).to_string();
        let claims = format!("{{\"{claim}\":{text},{}", &rest[1..]);
        self.raw(r#"{"typ":"JWT","alg":"HS256"}"#, &claims)
    }

    /// A good token with one claim twice.
    fn twice(&self, claim: &str, first: Value) -> String {
        let rest = good().to_string();
        let claims = format!("{{\"{claim}\":{first},{}", &rest[1..]);
        self.raw(r#"{"typ":"JWT","alg":"HS256"}"#, &claims)
    }

    fn eddsa(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).expect("the key is one");
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).expect("it can sign")
    }
}

fn good() -> Value {
    Value::Object(Claims::of("alice").0)
}

type Row = (&'static str, String, Fate);

/// Who may have signed it, and what it says of that.
fn algorithms(forge: &Forge) -> Vec<Row> {
    let token = forge.tokens.token("alice");
    let (message, signature) = token.rsplit_once('.').expect("a token has three parts");
    let claims = URL_SAFE_NO_PAD.encode(good().to_string());
    let none = |alg: &str| URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": alg}).to_string());
    let eddsa = forge.eddsa(&good());
    let (_, eddsa_signature) = eddsa.rsplit_once('.').expect("a token has three parts");
    let header = r#"{"typ":"JWT","alg":"HS256"}"#;
    let confused = |key: &[u8]| forge.signed_with(key, header, &good().to_string());
    let der = base64::engine::general_purpose::STANDARD
        .decode(PUBLIC.lines().nth(1).expect("the key has a line"))
        .expect("it is base64");
    // The last character of 32 bytes has two bits to spare.
    let last = signature.as_bytes()[signature.len() - 1];
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.bytes().position(|byte| byte == last);
    let neighbour = &alphabet[index.expect("base64") + 1..][..1];
    let malleable = format!("{message}.{}{neighbour}", &signature[..signature.len() - 1]);
    vec![
        ("the secret's", token.clone(), Taken),
        ("the key pair's", eddsa.clone(), Taken),
        ("none", format!("{}.{claims}.", none("none")), Refused),
        ("None", format!("{}.{claims}.", none("None")), Refused),
        (
            "NONE, signed",
            format!("{}.{claims}.{signature}", none("NONE")),
            Refused,
        ),
        (
            "an empty algorithm",
            format!("{}.{claims}.{signature}", none("")),
            Refused,
        ),
        (
            "the public key as a secret",
            confused(PUBLIC.as_bytes()),
            Refused,
        ),
        (
            "the same without the last line break",
            confused(PUBLIC.trim_end().as_bytes()),
            Refused,
        ),
        (
            "the public key's bytes as a secret",
            confused(&der),
            Refused,
        ),
        (
            "the public key's 32 bytes as a secret",
            confused(&der[der.len() - 32..]),
            Refused,
        ),
        ("an empty secret", confused(b""), Refused),
        (
            "one's signature under the other's name",
            format!("{message}.{eddsa_signature}"),
            Refused,
        ),
        ("a signature with spare bits set", malleable, Refused),
        ("a signature with padding", format!("{token}="), Refused),
        ("a token with a space", format!(" {token} x"), Refused),
        (
            "a line break in it",
            format!("{message}\n.{signature}"),
            Refused,
        ),
        ("a fourth part", format!("{token}.x"), Refused),
        (
            "five parts, as if encrypted",
            format!("{token}.{signature}.x"),
            Refused,
        ),
        ("two parts", message.to_owned(), Refused),
        ("only dots", "..".to_owned(), Refused),
        ("not base64", "a+b/.c+d/.e+f/".to_owned(), Refused),
        ("lists, deep", deep(), Refused),
    ]
}

/// Unsigned, and so deep that a parser that goes down with it would run out of stack.
fn deep() -> String {
    let lists = format!("{{\"x\":{}", "[".repeat(15_000));
    let header = URL_SAFE_NO_PAD.encode(lists);
    format!("{header}.{header}.x")
}

/// What else a header may say: nothing of it is followed.
fn headers(forge: &Forge) -> Vec<Row> {
    let own = r#"{"kty":"oct","k":"AAAA","alg":"HS256"}"#;
    let own: Value = serde_json::from_str(own).expect("it is JSON");
    let with = |name: &str, value: Value| {
        let mut header = json!({"typ": "JWT", "alg": "HS256"});
        header[name] = value;
        forge.header(header)
    };
    let other = b"0123456789abcdef0123456789abcdef";
    let forged = json!({"alg": "HS256", "kid": "../../dev/null", "jwk": own}).to_string();
    vec![
        (
            "a key id that is a path",
            with("kid", json!("../../../dev/null")),
            Taken,
        ),
        (
            "a key id that is a query",
            with("kid", json!("x' union select 'AAAA")),
            Taken,
        ),
        (
            "a key id that is a command",
            with("kid", json!("|sleep 9")),
            Taken,
        ),
        ("a key id that is a number", with("kid", json!(7)), Refused),
        (
            "a key's address",
            with("jku", json!("http://127.0.0.1:1/keys")),
            Taken,
        ),
        (
            "a certificate's address",
            with("x5u", json!("http://127.0.0.1:1/x")),
            Taken,
        ),
        ("another type", with("typ", json!("at+jwt")), Taken),
        (
            "a key of its own, and signed with that",
            forge.signed_with(other, &forged, &good().to_string()),
            Refused,
        ),
        (
            "two algorithms",
            forge.raw(r#"{"alg":"none","alg":"HS256"}"#, &good().to_string()),
            Refused,
        ),
        ("no header", forge.raw("", &good().to_string()), Refused),
        (
            "a header that is a list",
            forge.raw(r#"["HS256"]"#, &good().to_string()),
            Refused,
        ),
    ]
}

/// From when to when. Seconds since 1970, whole; five seconds are allowed for clocks.
fn times(forge: &Forge) -> Vec<Row> {
    let (with, claim) = (
        |name: &str, value: Value| forge.with(name, value),
        |name: &str, text: &str| forge.claim(name, text),
    );
    vec![
        (
            "ends in the year 292 million",
            with("exp", json!(i64::MAX / 1_000)),
            Taken,
        ),
        (
            "ends later than can be counted",
            with("exp", json!(u64::MAX)),
            Taken,
        ),
        ("ended long ago", with("exp", json!(1)), Expired),
        ("ended when time began", with("exp", json!(0)), Expired),
        (
            "ended a minute ago",
            with("exp", json!(now_s() - 60)),
            Expired,
        ),
        (
            "ended a minute ago, and is for others",
            forge.tokens.sign(
                &Claims::of("alice")
                    .with("exp", json!(now_s() - 60))
                    .with("aud", json!("x")),
            ),
            Refused,
        ),
        (
            "ended a minute ago, and is another's",
            Tokens::with_secret(b"0123456789abcdef0123456789abcdef")
                .sign(&Claims::of("alice").with("exp", json!(now_s() - 60))),
            Refused,
        ),
        ("ends before 1970", with("exp", json!(-1)), Refused),
        (
            "ends in a fraction",
            with("exp", json!(now_s() as f64 + 600.5)),
            Refused,
        ),
        (
            "ends in a number with a point",
            claim("exp", &format!("{}.0", now_s() + 600)),
            Refused,
        ),
        ("ends in a huge number", claim("exp", "1e30"), Refused),
        (
            "ends in more digits than fit",
            claim("exp", "99999999999999999999999"),
            Refused,
        ),
        (
            "ends in a text",
            with("exp", json!((now_s() + 600).to_string())),
            Refused,
        ),
        (
            "ends in a list",
            with("exp", json!([now_s() + 600])),
            Refused,
        ),
        ("ends in yes", with("exp", json!(true)), Refused),
        (
            "begins in an hour",
            with("nbf", json!(now_s() + 3_600)),
            Refused,
        ),
        (
            "begins within the leeway",
            with("nbf", json!(now_s() + 2)),
            Taken,
        ),
        ("begins in a text", with("nbf", json!("0")), Refused),
        ("begins before 1970", with("nbf", json!(-5)), Refused),
        (
            "was made in the future",
            with("iat", json!(now_s() + 3_600)),
            Taken,
        ),
    ]
}

/// Whose and for whom.
fn names(forge: &Forge) -> Vec<Row> {
    let with = |name: &str, value: Value| forge.with(name, value);
    vec![
        (
            "for one of several",
            with("aud", json!(["other", "natter"])),
            Taken,
        ),
        (
            "for others",
            with("aud", json!(["other", "natter2"])),
            Refused,
        ),
        ("for nobody", with("aud", json!([])), Refused),
        (
            "for a part of the name",
            with("aud", json!("natte")),
            Refused,
        ),
        (
            "for the name in capitals",
            with("aud", json!("NATTER")),
            Refused,
        ),
        ("for a number", with("aud", json!(7)), Refused),
        (
            "by somebody with a longer name",
            with("iss", json!("natter-dev.evil.example")),
            Refused,
        ),
        (
            "by two issuers",
            with("iss", json!(["natter-dev", "evil"])),
            Refused,
        ),
        ("of a number", with("sub", json!(7)), Refused),
        ("of a list", with("sub", json!(["alice"])), Refused),
        ("of an object", with("sub", json!({"a": "alice"})), Refused),
        ("of nobody", with("sub", json!("")), Refused),
        ("of a space", with("sub", json!(" ")), Taken),
        ("of a name with a NUL", with("sub", json!("a\0b")), Taken),
        (
            "of a very long name",
            with("sub", json!("x".repeat(20_000))),
            Taken,
        ),
        (
            "with roles that are a text",
            with("roles", json!("admin")),
            Refused,
        ),
        (
            "with roles that are none",
            with("roles", json!([null, 7, {"a": []}])),
            Taken,
        ),
        (
            "with much beside",
            with("more", json!("x".repeat(30_000))),
            Taken,
        ),
        ("two subjects", forge.twice("sub", json!("bob")), Refused),
        (
            "two issuers in two claims",
            forge.twice("iss", json!("evil")),
            Refused,
        ),
        (
            "two audiences in two claims",
            forge.twice("aud", json!("other")),
            Refused,
        ),
        (
            "two ends",
            forge.twice("exp", json!(now_s() + 9_999_999)),
            Refused,
        ),
        ("two beginnings", forge.twice("nbf", json!(0)), Refused),
        (
            "two lists of roles",
            forge.twice("roles", json!(["admin"])),
            Refused,
        ),
    ]
}

async fn with_two_keys() -> Stack {
    let folder = std::env::temp_dir().join(format!("natter-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    let public = folder.join("public.pem");
    std::fs::write(&public, PUBLIC).expect("it is ours");
    let stack = crate::settings::unhurried()
        .env(
            "NATTER_JWT_EDDSA_PUBLIC_KEY_FILE",
            &public.to_string_lossy(),
        )
        .start()
        .await;
    std::fs::remove_dir_all(&folder).expect("it is ours");
    stack
}

async fn on_the_socket(stack: &Stack, what: &str, token: &str, fate: Fate) -> String {
    let mut socket = Socket::open(stack.socket_url()).await;
    let answer = socket.asks(json!({"op": "hello", "token": token})).await;
    let (code, close) = match fate {
        Taken => {
            answer.unwrap_or_else(|err| panic!("{what} on the socket: {err}"));
            return String::new();
        }
        Refused => ("unauthorized", 4500),
        Expired => ("token_expired", 4100),
    };
    let err = answer.expect_err(what);
    assert_eq!(err["code"], code, "{what} on the socket");
    assert_eq!(socket.ends().await, Closed::With(close), "{what}");
    err.to_string()
}

async fn over_http(stack: &Stack, what: &str, token: &str, fate: Fate) -> String {
    let rooms = Request::get(stack.at("/v1/rooms"));
    let answer = rooms.bearer(token).send().await;
    match fate {
        Taken => assert_eq!(answer.status, 200, "{what} over HTTP: {answer:?}"),
        Refused => answer.is_problem(401, "unauthorized"),
        Expired => answer.is_problem(401, "token_expired"),
    }
    if fate != Taken {
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
    }
    answer.body
}

#[tokio::test]
async fn every_token_has_its_fate_on_the_socket_and_over_http() {
    let stack = with_two_keys().await;
    let forge = Forge::of(&stack);
    let rows = [
        algorithms(&forge),
        headers(&forge),
        times(&forge),
        names(&forge),
    ]
    .concat();
    let mut told = std::collections::BTreeSet::new();
    for (what, token, fate) in &rows {
        let said = on_the_socket(&stack, what, token, *fate).await;
        // A line break ends a header.
        let heard = if token.contains('\n') {
            String::new()
        } else {
            over_http(&stack, what, token, *fate).await
        };
        if *fate == Refused {
            told.extend([said, heard]);
        }
    }
    told.remove("");
    // Nobody learns what was wrong: there is one answer for each door.
    assert_eq!(told.len(), 2, "{told:#?}");
    // Everything is as before.
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    alice.sends(&room, "still here").await;
    bob.sees(&room, "still here").await;
}

#[tokio::test]
async fn a_token_counts_nowhere_but_in_its_place() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    let other = stack.tokens().token("bob");
    for query in ["token", "access_token", "jwt", "authorization"] {
        let address = stack.at(&format!("/v1/rooms?{query}={token}"));
        Request::get(address)
            .send()
            .await
            .is_problem(401, "unauthorized");
    }
    let rooms = || Request::get(stack.at("/v1/rooms"));
    for (name, value) in [
        (
            "cookie",
            format!("token={token}; authorization=Bearer {token}"),
        ),
        ("authorization", token.clone()),
        ("authorization", format!("Basic {token}")),
        ("authorization", format!("Bearer{token}")),
        ("authorization", "Bearer ".to_owned()),
        ("authorization", "Bearer".to_owned()),
        ("authorization", format!("Bearer {token}, Bearer {other}")),
        ("authorization", format!("Bearer {token} {other}")),
        ("proxy-authorization", format!("Bearer {token}")),
        ("x-authorization", format!("Bearer {token}")),
    ] {
        let answer = rooms().header(name, &value).send().await;
        answer.is_problem(401, "unauthorized");
    }
    // Which of two is meant, a server before this one may see otherwise.
    let two = rooms().bearer(&token).bearer(&other).send().await;
    two.is_problem(401, "unauthorized");
    // The scheme's name has no case (RFC 9110, section 11.1).
    let scheme = rooms().header("authorization", &format!("bEaReR {token}"));
    assert_eq!(scheme.send().await.status, 200);
    // A socket takes it in its hello only.
    let bearer = format!("Bearer {token}");
    let mut socket = Socket::open_with(stack.socket_url(), &[("authorization", &bearer)])
        .await
        .expect("a header that means nothing here is no fault");
    socket.sends(&json!({"id": 1, "op": "rooms"})).await;
    assert_eq!(socket.ends().await, Closed::With(4501));
}

#[tokio::test]
async fn a_refresh_that_is_refused_changes_nothing() {
    let stack = with_two_keys().await;
    let forge = Forge::of(&stack);
    let mut socket = Socket::open(stack.socket_url()).await;
    let greeting = socket
        .says_hello(json!({"token": forge.tokens.token("alice")}))
        .await;
    let expired = forge.with("exp", json!(now_s() - 60));
    let others = Value::Object(Claims::of("bob").0);
    for (what, token, code) in [
        ("expired", expired, "token_expired"),
        ("somebody else's", forge.tokens.token("bob"), "unauthorized"),
        (
            "somebody else's, by the other key",
            forge.eddsa(&others),
            "unauthorized",
        ),
        (
            "another audience's",
            forge.with("aud", json!("x")),
            "unauthorized",
        ),
        ("none", String::new(), "unauthorized"),
    ] {
        let refused = socket.asks(json!({"op": "token", "token": token})).await;
        assert_eq!(refused.expect_err(what)["code"], code, "{what}");
    }
    for no_text in [json!(7), json!(null), json!(["x"]), json!({"a": 1})] {
        let refused = socket.asks(json!({"op": "token", "token": no_text})).await;
        assert_eq!(refused.expect_err("no text")["code"], "bad_request");
    }
    // Still Alice, and still for as long.
    let made = socket
        .asks(json!({"op": "create", "kind": "private", "name": "x", "cid": tests::cid()}))
        .await;
    made.expect("it is Alice's socket");
    let same = forge.eddsa(&good());
    let taken = socket.asks(json!({"op": "token", "token": same})).await;
    let until = taken.expect("the same user, by the other key")["token_exp"].clone();
    assert!(
        until.as_u64() >= greeting.ok["token_exp"].as_u64(),
        "{until}"
    );
}

#[tokio::test]
async fn a_refresh_brings_the_rights_of_the_new_token() {
    let stack = Stack::start().await;
    let mut bob = stack.user("bob").await;
    let room = bob.creates_room("ops").await;
    let mut socket = Socket::open(stack.socket_url()).await;
    let guest = stack
        .tokens()
        .sign(&Claims::of("alice").with("roles", json!(["guest"])));
    let plain = stack.tokens().token("alice");
    socket.says_hello(json!({"token": plain})).await;
    let read = json!({"op": "history", "room": room});
    socket.asks(read.clone()).await.expect("the room is public");
    socket
        .asks(json!({"op": "token", "token": guest}))
        .await
        .expect("taken");
    // A guest sees only what he was invited to.
    let refused = socket.asks(read.clone()).await.expect_err("not a guest's");
    assert_eq!(refused["code"], "not_found");
    let join = json!({"op": "join", "room": room, "cid": tests::cid()});
    assert_eq!(
        socket.asks(join).await.expect_err("not a guest's")["code"],
        "not_found"
    );
    socket
        .asks(json!({"op": "token", "token": plain}))
        .await
        .expect("taken");
    socket.asks(read).await.expect("the room is public");
}
