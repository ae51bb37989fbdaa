//! The thread that tells: the views to the owner, and what happened to the log. Both take locks that
//! ordinary threads hold, for which the election thread shall not wait.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tracing::{debug, info, warn};
use vrrp::VrrpState;

use super::post::{Letterbox, Post, post};
use super::view::ElectionView;
use super::{NOT_YET_READY, STARTS_LATER, Shared, scheduling};
use crate::privileges;

/// Notes that wait for the teller. Whoever makes a router change all the time shall not fill the
/// memory.
pub(super) const NOTES_MAX: usize = 256;

/// Something for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The state has changed, to FAULT for this reason.
    Became(VrrpState, Option<String>),
    /// A master was not served for longer than others wait.
    Lapsed,
    /// A peer uses the old form of the checksum.
    OldForm(IpAddr),
}

/// What is told next.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) views: Option<Vec<ElectionView>>,
    /// With the router's number.
    pub(super) notes: Vec<(usize, Note)>,
    /// Notes that there was no room for.
    pub(super) lost: u64,
}

impl Mail {
    pub(super) fn note(&mut self, notes: &mut Vec<(usize, Note)>) {
        let room = NOTES_MAX.saturating_sub(self.notes.len());
        let lost = notes.len().saturating_sub(room);
        notes.truncate(room);
        self.notes.append(notes);
        let lost = u64::try_from(lost).unwrap_or(u64::MAX);
        self.lost = self.lost.saturating_add(lost);
    }
}

/// Starts the thread; it ends, and with it the views, when the other end is dropped.
pub(super) fn start(
    views: watch::Sender<Vec<ElectionView>>,
    shared: Arc<Shared>,
    rt_priority: u8,
) -> io::Result<(Post<Mail>, JoinHandle<()>)> {
    let (post, letterbox) = post()?;
    let thread = std::thread::Builder::new()
        .name("vrrp-tell".to_owned())
        .spawn(move || tell(letterbox, &views, &shared, rt_priority))?;
    Ok((post, thread))
}

fn tell(
    mut letterbox: Letterbox<Mail>,
    views: &watch::Sender<Vec<ElectionView>>,
    shared: &Shared,
    rt_priority: u8,
) {
    // A takeover is acted on as fast as it is decided; the election itself comes first.
    scheduling::raise(match rt_priority {
        0 | 1 => rt_priority,
        2.. => rt_priority.saturating_sub(1),
    });
    if let Err(error) = privileges::drop_all() {
        warn!(%error, "the election's teller keeps privileges that it does not need");
    }
    while let Some(mail) = letterbox.next() {
        if let Some(news) = mail.views {
            views.send_replace(news);
        }
        for (router, note) in mail.notes {
            if let Some((spec, _)) = shared.routers.get(router) {
                log(&spec.name, spec.config.vrid(), note);
            }
        }
        if mail.lost > 0 {
            warn!(
                lines = mail.lost,
                "too much happened in the election for the log"
            );
        }
    }
}

fn log(name: &str, vrid: u8, note: Note) {
    match note {
        Note::Became(VrrpState::Master, _) => info!(%name, vrid, "master"),
        Note::Became(VrrpState::Backup, _) => info!(%name, vrid, "backup"),
        Note::Became(VrrpState::Fault, reason) => match reason.as_deref().unwrap_or_default() {
            NOT_YET_READY => debug!(%name, vrid, "waits until this node is ready"),
            STARTS_LATER => info!(%name, vrid, "waits until vrrp_startup_delay_ms is over"),
            reason => warn!(%name, vrid, reason, "fault"),
        },
        Note::Became(VrrpState::Initialize, _) => info!(%name, vrid, "takes no part any more"),
        Note::Lapsed => warn!(
            %name,
            vrid,
            "this node stood still for longer than others wait for a master, and is none any more"
        ),
        Note::OldForm(peer) => {
            info!(%name, vrid, %peer, "a peer uses the old form of the checksum");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_without_room_are_counted() {
        let mut mail = Mail::default();
        let mut notes = vec![(0, Note::Lapsed); 200];
        mail.note(&mut notes);
        assert!(notes.is_empty());
        mail.note(&mut vec![(1, Note::Lapsed); 200]);
        assert_eq!((mail.notes.len(), mail.lost), (NOTES_MAX, 144));
    }
}
