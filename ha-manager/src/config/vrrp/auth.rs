//! `auth` and `auth_pass`: how a router of version 2 says that it belongs here.

use std::fmt;

use ::vrrp::Authentication;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use toml::Spanned;
use zeroize::Zeroizing;

use crate::config::Offence;

/// Unit: bytes (RFC 2338 §5.3.10).
const PASSWORD_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawAuth {
    #[default]
    None,
    Pass,
    Ah,
}

/// A password as typed; neither its `Debug` nor a refusal of it shows what it is, and it is overwritten
/// when it has been judged.
pub(super) struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        from.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

/// Names what it found by its kind: the default message would show a password without quotes.
impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a password in quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(Zeroizing::new(text)))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        Err(E::custom(NO_STRING))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(NO_STRING))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom(NO_STRING))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::custom(NO_STRING))
    }
}

const NO_STRING: &str = "auth_pass is not a string: a password stands in quotes";

/// `is_public` says that others may read the file.
pub(super) fn resolve(
    auth: Option<Spanned<RawAuth>>,
    password: Option<Spanned<Secret>>,
    is_public: bool,
) -> Result<Authentication, Offence> {
    let Some(password) = password else {
        return match auth {
            Some(auth) if *auth.get_ref() != RawAuth::None => {
                Err(Offence::new(&auth, "auth without auth_pass".to_owned()))
            }
            Some(_) | None => Ok(Authentication::None),
        };
    };
    let auth = auth.map(Spanned::into_inner).unwrap_or_default();
    let text = password.get_ref().0.as_str();
    let reason = if auth == RawAuth::None {
        "auth_pass without auth = \"pass\" or \"ah\" says nothing".to_owned()
    } else if text.is_empty() {
        "auth_pass is empty".to_owned()
    } else if text.len() > PASSWORD_MAX {
        format!(
            "auth_pass of {} bytes is longer than the {PASSWORD_MAX} an advert has room for; \
             keepalived cuts it without refusing, so a peer's longer one is its first \
             {PASSWORD_MAX} bytes",
            text.len()
        )
    } else if text.contains('\0') {
        "auth_pass contains a zero byte, with which an advert fills it up".to_owned()
    } else if is_public {
        "auth_pass in a file that everybody may read; take that away (chmod o-r)".to_owned()
    } else {
        let password = Authentication::password(text);
        return Ok(match auth {
            RawAuth::None => Authentication::None,
            RawAuth::Pass => Authentication::Simple(password),
            RawAuth::Ah => Authentication::Header(password),
        });
    };
    Err(Offence::new(&password, reason))
}
