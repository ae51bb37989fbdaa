//! Why a tunable is not set.

/// Why a tunable was not set; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, bincode::Encode, bincode::Decode)]
pub enum SysctlError {
    /// There is no tunable of this name, which stands as it was asked for.
    #[error("unknown tunable {0:?}")]
    Unknown(String),
    /// The name without `net.ipv4.vs.`, the value as an operator would recognise it, and the rule
    /// that it breaks.
    #[error("{name} {value} {reason}")]
    Refused {
        name: String,
        value: String,
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use crate::{Reply, Request, SysctlError, decode, encode};

    #[test]
    fn requests_and_replies_survive_the_socket() {
        let (name, value) = ("sync_threshold".to_owned(), "3\t50".to_owned());
        for request in [
            Request::ListSysctl,
            Request::SetSysctl {
                name: name.clone(),
                value: value.clone(),
            },
        ] {
            let frame = encode(&request).unwrap();
            assert_eq!(decode::<Request>(&frame[4..]).unwrap(), request);
        }
        let refused = SysctlError::Refused {
            name: name.clone(),
            value: value.clone(),
            reason: "is not a number".to_owned(),
        };
        for reply in [
            Reply::Sysctl(vec![(name, value); 40]),
            Reply::SysctlRefused(SysctlError::Unknown("colour".to_owned())),
            Reply::SysctlRefused(refused),
        ] {
            let frame = encode(&reply).unwrap();
            assert_eq!(decode::<Reply>(&frame[4..]).unwrap(), reply);
        }
    }

    #[test]
    fn an_error_names_the_key_the_value_and_the_rule() {
        let unknown = SysctlError::Unknown("net.ipv4.vs.colour".to_owned());
        assert_eq!(
            unknown.to_string(),
            "unknown tunable \"net.ipv4.vs.colour\""
        );
        let refused = SysctlError::Refused {
            name: "sync_retries".to_owned(),
            value: "4".to_owned(),
            reason: "is not between 0 and 3".to_owned(),
        };
        assert_eq!(refused.to_string(), "sync_retries 4 is not between 0 and 3");
    }
}
