//! With real directories, locks and sockets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Barrier;
use std::thread;

use crate::handover::message::Message;

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory can be made") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("handover/handover.sock")
    }

    fn mode(&self, mode: u32) {
        let directory = self.directory.path().join("handover");
        fs::set_permissions(directory, Permissions::from_mode(mode)).expect("it is ours");
    }

    fn take(&self) -> Result<Taken, SeatError> {
        Seat::take(&self.path())
    }

    fn free(&self) -> Seat {
        match self.take() {
            Ok(Taken::Free(seat)) => seat,
            other => panic!("{other:?}"),
        }
    }

    fn held(&self) -> Channel {
        match self.take() {
            Ok(Taken::Held(channel)) => channel,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_first_has_it_and_the_second_finds_the_first() {
    let place = Place::new();
    let seat = place.free();
    assert!(seat.accept().expect("it listens").is_none());
    let candidate = place.held();
    let accepted = seat.accept().expect("it listens").expect("somebody has connected");
    candidate.send(&Message::Terminating, &[]).expect("room");
    assert_eq!(accepted.receive().expect("it was sent").message, Message::Terminating);
    assert!(Seat::try_lock(&place.path()).expect("the place is good").is_none());
    let directory = fs::metadata(place.path().parent().expect("it has one")).expect("it was made");
    assert_eq!(directory.permissions().mode() & 0o7777, 0o700);
}

/// What a holder leaves behind that died, at whichever step.
#[test]
fn a_socket_is_stale_when_its_lock_is_free() {
    let place = Place::new();
    let queued = {
        let _seat = place.free();
        place.held()
    };
    assert!(place.path().exists(), "nobody unlinks it");
    assert!(queued.receive().is_err());
    let half_way = place.directory.path().join("handover/handover.sock.new");
    fs::write(&half_way, "").expect("it is ours");
    let seat = place.free();
    assert!(!half_way.exists());
    place.held();
    assert!(seat.accept().expect("it listens").is_some(), "the new socket is in the place of the old one");
}

#[test]
fn a_holder_that_does_not_answer_is_silent() {
    let place = Place::new();
    let seat = place.free();
    // It never accepts: some fit in its queue.
    let mut waiting = Vec::new();
    let error = loop {
        match place.take() {
            Ok(Taken::Held(channel)) => waiting.push(channel),
            Ok(Taken::Free(_)) => panic!("it is held"),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100);
    };
    assert!(matches!(error, SeatError::Silent { cause: Errno::AGAIN, .. }), "{error}");
    let Seat { lock, listener } = seat;
    drop(listener);
    let refused = place.take();
    assert!(matches!(refused, Err(SeatError::Silent { cause: Errno::CONNREFUSED, .. })), "{refused:?}");
    fs::remove_file(place.path()).expect("it is ours");
    let missing = place.take();
    assert!(matches!(missing, Err(SeatError::Silent { cause: Errno::NOENT, .. })), "{missing:?}");
    drop(lock);
    place.free();
}

#[test]
fn of_many_who_come_at_once_one_gets_it() {
    for _ in 0..50 {
        let place = Place::new();
        let start = Barrier::new(8);
        let come = || {
            start.wait();
            loop {
                match place.take() {
                    // Locked, and not yet listening.
                    Err(SeatError::Silent { .. }) => thread::yield_now(),
                    other => break other.expect("the place is good"),
                }
            }
        };
        let found: Vec<Taken> = thread::scope(|scope| {
            let threads = [(); 8].map(|()| scope.spawn(come));
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        let seats: Vec<_> = found
            .iter()
            .filter_map(|taken| if let Taken::Free(seat) = taken { Some(seat) } else { None })
            .collect();
        assert_eq!(seats.len(), 1);
        for _ in 0..7 {
            assert!(seats[0].accept().expect("it listens").is_some(), "all others have found it");
        }
    }
}

#[test]
fn it_travels_and_is_at_no_moment_free() {
    let place = Place::new();
    let seat = place.free();
    let candidate = place.held();
    let holder = seat.accept().expect("it listens").expect("somebody has connected");
    let late = place.held();

    holder.send(&Message::RoleCommit { epoch: 1 }, &seat.parts()).expect("room");
    drop(seat);
    assert!(Seat::try_lock(&place.path()).expect("the place is good").is_none(), "it is on its way");
    let received = candidate.receive().expect("it was sent");
    let [lock, listener] = received.descriptors.try_into().expect("two of them");
    let seat = Seat::from_parts(lock, listener).expect("these are its parts");
    assert!(Seat::try_lock(&place.path()).expect("the place is good").is_none(), "it has come");

    late.send(&Message::Done, &[]).expect("room");
    let accepted = seat.accept().expect("it listens").expect("who was queued is not lost");
    assert_eq!(accepted.receive().expect("it was sent").message, Message::Done);
    for descriptor in seat.parts() {
        let flags = rustix::io::fcntl_getfd(descriptor).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    drop(seat);
    assert!(Seat::try_lock(&place.path()).expect("the place is good").is_some(), "its holder is gone");
}

/// Why the giver must drop its seat.
#[test]
fn a_copy_that_is_kept_keeps_it() {
    let place = Place::new();
    let seat = place.free();
    let [lock, listener] = seat.parts().map(|part| part.try_clone_to_owned().expect("room"));
    drop(Seat::from_parts(lock, listener).expect("these are its parts"));
    assert!(Seat::try_lock(&place.path()).expect("the place is good").is_none());
}

#[test]
fn what_was_given_is_looked_at() {
    let place = Place::new();
    let seat = place.free();
    let part = |index: usize| seat.parts()[index].try_clone_to_owned().expect("room");
    let other: OwnedFd = fs::File::open(place.path().with_file_name(LOCK)).expect("it is ours").into();
    let result = Seat::from_parts(other, part(1));
    assert!(matches!(result, Err(SeatError::NotTheLock)), "{result:?}");
    let (deaf, _) = Channel::pair().expect("a pair of sockets");
    let deaf = deaf.as_fd().try_clone_to_owned().expect("room");
    Seat::from_parts(part(0), deaf).expect_err("that is no listener");
    Seat::from_parts(part(0), part(1)).expect("these are its parts");
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    for mode in [0o701, 0o710, 0o740, 0o755, 0o777] {
        let place = Place::new();
        drop(place.free());
        place.mode(mode);
        match place.take() {
            Err(error @ SeatError::OpenDirectory { .. }) => {
                assert!(error.to_string().contains(&format!("mode 0{mode:o}")), "{error}");
            }
            other => panic!("{mode:o}: {other:?}"),
        }
    }
}

#[test]
fn a_place_that_is_none_is_named() {
    let place = Place::new();
    let no_parent = place.directory.path().join("missing/handover/handover.sock");
    assert!(matches!(Seat::take(&no_parent), Err(SeatError::System { cause: Errno::NOENT, .. })));
    let long = place.directory.path().join("handover").join("x".repeat(108));
    assert!(matches!(Seat::take(&long), Err(SeatError::System { cause: Errno::NAMETOOLONG, .. })));
    assert!(matches!(Seat::take(Path::new("/")), Err(SeatError::NoPath(_))));
    let link = place.directory.path().join("link");
    std::os::unix::fs::symlink(place.path().parent().expect("it has one"), &link).expect("it is ours");
    Seat::take(&link.join("handover.sock")).expect_err("it leads who knows where");
}

#[test]
fn strangers_are_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not root: this process can't be anybody else");
    }
    const NOBODY: u32 = 65_534;
    let place = Place::new();
    let directory = place.directory.path().join("handover");
    drop(place.free());
    chown(&directory, Some(NOBODY), None).expect("root may");
    let result = place.take();
    assert!(matches!(result, Err(SeatError::ForeignDirectory { uid: NOBODY, own: 0, .. })), "{result:?}");
    chown(&directory, Some(0), None).expect("root may");

    // Only somebody who got past the directory comes so far.
    let seat = place.free();
    fs::set_permissions(place.directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    place.mode(0o755);
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let path = place.path();
    let as_nobody = move || {
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
        connect(&path)
    };
    let result = thread::spawn(as_nobody).join().expect("it does not panic");
    assert!(matches!(result, Err(SeatError::Stranger { uid: 0, own: NOBODY })), "{result:?}");
    let result = seat.accept();
    assert!(matches!(result, Err(SeatError::Stranger { uid: NOBODY, own: 0 })), "{result:?}");
}
