//! The memory of a restored job that is frozen until all of it has come: in the place of `criu lazy-pages`, which asks for one
//! piece after the other and lets both nodes wait meanwhile.
//!
//! `criu restore` hands over a userfaultfd of each task, and says when the tasks are complete but for their memory. Then all of
//! it is asked for, from the page server of the dump at the source; before, only what a task must have to get on.
//!
//! ```text
//! restore ─ descriptors, faults ─▶ attend ─ requests ─▶ source
//! tasks ◀─ pages ─ fill ◀─ receive ◀───── pages ───────┘
//!
//! requests   which pages next (pure)
//! wire       the language of CRIU's page servers
//! pagemap    CRIU's image of what there is to fetch
//! faults     a task's userfaultfd
//! ```

mod faults;
pub mod pagemap;
mod requests;
mod wire;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver as Taker, Sender as Giver, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use self::faults::{Faults, News};
use self::pagemap::Pagemap;
use self::requests::{Fault, Requests};
use self::wire::{Layout, Piece};
use super::threads;
use crate::bytes::Bytes;
use crate::net::link::Sender;
use crate::net::message::PagesAnswer;
use crate::{inspect, sys};

/// Where a restore looks for who fetches its memory, in the image directory.
const SOCKET: &str = "lazy-pages.socket";
/// What a restore says when the tasks are complete but for their memory; no task has this pid.
const RESTORED: i32 = 0x5253_5446;
/// How much memory is handed from the connection to the task at once, bytes.
const CHUNK: usize = 512 << 10;
/// How many such pieces there are.
const CHUNKS: usize = 4;
/// The largest image that says which memory there is.
const LARGEST_IMAGE: u64 = 256 << 20;

/// Listens for a restore from these images.
pub fn listen(images: &OwnedFd) -> io::Result<UnixListener> {
    UnixListener::bind(below(images, SOCKET))
}

/// Fetches all memory of the restore that comes to `listener`. Fails if the restore does, or the source. Once it has returned
/// nobody waits for memory any more.
pub fn fetch(
    listener: &UnixListener,
    images: &OwnedFd,
    input: impl Read,
    out: &Sender,
) -> Result<(), String> {
    let (over, until) = UnixStream::pair().map_err(|error| error.to_string())?;
    let fetch = Fetch {
        images,
        out,
        page: inspect::page_size(),
        state: Mutex::new(State {
            requests: Requests::new(inspect::page_size()),
            tasks: HashMap::new(),
            layout: Layout::Wide,
            closed: false,
        }),
    };
    std::thread::scope(|scope| {
        let fetch = &fetch;
        let attending = threads::start_in(scope, "faults", move || {
            fetch.attend(listener, &until).inspect_err(|_| fetch.out.close())
        });
        let received = fetch.receive(input);
        drop(over);
        let attended = attending.join().unwrap_or_else(|_| Err(io::Error::other("its thread has died")));
        // A restore that failed explains a connection that was closed for it.
        attended.map_err(|error| format!("restoring: {error}"))?;
        received.map_err(|error| format!("its memory: {error}"))
    })
}

struct Fetch<'a> {
    images: &'a OwnedFd,
    out: &'a Sender,
    /// Bytes of a page.
    page: u64,
    state: Mutex<State>,
}

struct State {
    requests: Requests,
    tasks: HashMap<u32, Arc<Faults>>,
    layout: Layout,
    /// The source has been told that nothing more will be asked for.
    closed: bool,
}

/// What a restore says.
enum Word {
    /// This task has memory to be fetched.
    Task(u32, Arc<Faults>),
    /// This one has ended and is not waited for yet.
    Zombie,
    /// All have come and may be filled.
    Restored,
}

/// Memory on its way from the connection to a task.
struct Chunk {
    task: Arc<Faults>,
    address: u64,
    bytes: Vec<u8>,
    length: usize,
}

impl Fetch<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the restore and the tasks, until there is nothing more to read from `until`.
    fn attend(&self, listener: &UnixListener, until: &UnixStream) -> io::Result<()> {
        if !wait_for(&[listener.as_fd(), until.as_fd()])?[0] {
            return Ok(());
        }
        let restore = listener.accept()?.0;
        let mut restored = false;
        let mut tasks: Vec<(u32, Arc<Faults>)> = Vec::new();
        loop {
            let ready = {
                let mut sources = vec![until.as_fd()];
                sources.extend(tasks.iter().map(|(_, faults)| faults.as_fd()));
                sources.extend((!restored).then(|| restore.as_fd()));
                wait_for(&sources)?
            };
            if ready[0] {
                return Ok(());
            }
            for ((task, faults), _) in tasks.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
                while let Some(news) = faults.hear()? {
                    self.handle(*task, faults, news)?;
                }
            }
            if !restored && ready.last() == Some(&true) {
                match self.hear_restore(&restore)? {
                    Word::Task(task, faults) => tasks.push((task, faults)),
                    Word::Zombie => {}
                    Word::Restored => restored = true,
                }
            }
        }
    }

    fn hear_restore(&self, mut restore: &UnixStream) -> io::Result<Word> {
        let mut word = [0; 4];
        restore.read_exact(&mut word).map_err(|_| io::Error::other("criu restore has failed"))?;
        let word = i32::from_ne_bytes(word);
        if word == RESTORED {
            let mut state = self.lock();
            state.requests.begin();
            self.proceed(&mut state)?;
            return Ok(Word::Restored);
        }
        let Ok(task) = u32::try_from(word) else { return Ok(Word::Zombie) };
        let faults = Arc::new(Faults::new(receive_descriptor(restore)?, self.page));
        self.add(task, &faults)?;
        Ok(Word::Task(task, faults))
    }

    fn add(&self, task: u32, faults: &Arc<Faults>) -> io::Result<()> {
        let name = format!("pagemap-{task}.img");
        let odd = |what: &str| io::Error::other(format!("{name}: {what}"));
        let file = File::open(below(self.images, &name)).map_err(|error| odd(&error.to_string()))?;
        let mut image = Vec::new();
        file.take(LARGEST_IMAGE).read_to_end(&mut image)?;
        let pagemap = Pagemap::parse(&image, self.page).ok_or_else(|| odd("no image of CRIU's"))?;
        let mut state = self.lock();
        if !pagemap.ranges.is_empty() {
            state.layout = if pagemap.is_wide { Layout::Wide } else { Layout::Narrow };
        }
        for (address, pages) in pagemap.ranges {
            state.requests.add(Piece { task, address, pages });
        }
        state.tasks.insert(task, faults.clone());
        Ok(())
    }

    fn handle(&self, task: u32, faults: &Faults, news: News) -> io::Result<()> {
        let News::Fault(address) = news else {
            return Err(io::Error::other("a job that is frozen changes its memory"));
        };
        let mut state = self.lock();
        match state.requests.fault(task, address) {
            Fault::Ask(piece) => self.say(state.layout.get(piece)),
            Fault::Coming => Ok(()),
            Fault::Empty => {
                drop(state);
                faults.fill_with_zeros(address)
            }
        }
    }

    /// Asks for what may be asked for now; says so when nothing more will be.
    fn proceed(&self, state: &mut State) -> io::Result<()> {
        while let Some(piece) = state.requests.next() {
            self.say(state.layout.get(piece))?;
        }
        if state.requests.are_done() && !state.closed {
            state.closed = true;
            self.say(state.layout.close())?;
        }
        Ok(())
    }

    fn say(&self, message: Vec<u8>) -> io::Result<()> {
        self.out.send(&PagesAnswer(Bytes(message)))
    }

    /// Takes what comes from the source, until it has answered that it is done.
    fn receive(&self, input: impl Read) -> io::Result<()> {
        let (full, to_fill) = bounded::<Chunk>(CHUNKS);
        let (used, empty) = bounded::<Vec<u8>>(CHUNKS);
        for _ in 0..CHUNKS {
            let _ = used.send(vec![0; CHUNK]);
        }
        std::thread::scope(|scope| {
            let filling = threads::start_in(scope, "fill", move || fill(&to_fill, &used));
            let received = self.receive_answers(input, &full, &empty);
            drop((full, empty));
            let filled = filling.join().unwrap_or_else(|_| Err(io::Error::other("its thread has died")));
            filled.and(received)
        })
    }

    fn receive_answers(
        &self,
        mut input: impl Read,
        full: &Giver<Chunk>,
        empty: &Taker<Vec<u8>>,
    ) -> io::Result<()> {
        let stuck = || io::Error::other("nobody takes it any more");
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "something that was not asked for");
        let mut message = [0; 32];
        loop {
            input.read_exact(&mut message[..4])?;
            // A status, which is the answer to the last request.
            if message[..4] == [0; 4] {
                return if self.lock().closed { Ok(()) } else { Err(odd()) };
            }
            let layout = self.lock().layout;
            let message = &mut message[..layout.length()];
            input.read_exact(&mut message[4..])?;
            let piece = layout.answer(message).ok_or_else(odd)?;
            let task = {
                let mut state = self.lock();
                if !state.requests.answered(piece) {
                    return Err(odd());
                }
                self.proceed(&mut state)?;
                state.tasks.get(&piece.task).cloned().ok_or_else(odd)?
            };
            let (mut address, end) = (piece.address, piece.address + piece.pages * self.page);
            while address < end {
                let mut bytes = empty.recv().map_err(|_| stuck())?;
                let length = CHUNK.min(usize::try_from(end - address).unwrap_or(CHUNK));
                input.read_exact(&mut bytes[..length])?;
                let chunk = Chunk { task: task.clone(), address, bytes, length };
                full.send(chunk).map_err(|_| stuck())?;
                address += length as u64;
            }
        }
    }
}

/// Fills tasks, until no more comes.
fn fill(to_fill: &Taker<Chunk>, used: &Giver<Vec<u8>>) -> io::Result<()> {
    for Chunk { task, address, bytes, length } in to_fill {
        task.fill(address, &bytes[..length])?;
        let _ = used.send(bytes);
    }
    Ok(())
}

/// Waits until one of them has something to read or has ended; says which.
fn wait_for(sources: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        sources.iter().map(|source| PollFd::new(*source, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => {
                other?;
                return Ok(polled.iter().map(|one| one.any().unwrap_or(false)).collect());
            }
        }
    }
}

fn receive_descriptor(restore: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(restore.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = message.cmsgs()?.filter_map(|control| match control {
        ControlMessageOwned::ScmRights(raw) => raw.first().copied(),
        _ => None,
    });
    descriptors
        .next()
        .map(sys::inherited)
        .ok_or_else(|| io::Error::other("criu restore hands over no userfaultfd"))
}

fn below(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::super::transfer::Following;
    use super::faults::tests::Memory;
    use super::*;
    use crate::net::link;
    use crate::net::message::Part;
    use crate::net::tests::pair;
    use crate::protobuf::put_number;

    const TASK: u32 = 17;
    const PAGES: u64 = 3000;

    /// A directory with the image of a task that has all of `memory` to be fetched.
    fn images(name: &str, memory: &Memory) -> (PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("om-fetch-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mut image = [b"magicnrs".as_slice(), &[0; 4]].concat();
        let mut entry = Vec::new();
        for (field, value) in [(1, memory.address()), (2, 0), (4, 2), (5, PAGES)] {
            put_number(&mut entry, field, value);
        }
        image.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        image.extend(entry);
        std::fs::write(path.join(format!("pagemap-{TASK}.img")), image).unwrap();
        (path.clone(), File::open(&path).unwrap().into())
    }

    /// As `criu restore` says that there is a task.
    fn introduce(restore: &UnixStream, descriptor: &OwnedFd) {
        (&*restore).write_all(&TASK.to_ne_bytes()).unwrap();
        let raw = [descriptor.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&raw)];
        let byte = [std::io::IoSlice::new(&[0])];
        sendmsg::<()>(restore.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).unwrap();
    }

    fn low_byte(number: u64) -> u8 {
        number.to_le_bytes()[0]
    }

    /// As CRIU's dump answers: with at most `most` pages, each filled with the low byte of its number in the memory.
    fn serve(stream: crate::net::tls::Stream, begin: u64, most: u64) {
        let page = inspect::page_size();
        let (out, mut input) = link::split(stream).unwrap();
        while let Ok(PagesAnswer(Bytes(message))) = input.receive() {
            if message == Layout::Wide.close() {
                out.send_with(&Part::Pages(4), &[0; 4]).unwrap();
                continue;
            }
            let number = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().unwrap());
            let (pages, address) = (number(8).min(most), number(16));
            let mut answer = message.clone();
            answer[..4].copy_from_slice(&0x4_0006_u32.to_ne_bytes());
            answer[8..16].copy_from_slice(&pages.to_ne_bytes());
            for n in 0..pages {
                let byte = low_byte((address - begin) / page + n);
                answer.extend(std::iter::repeat_n(byte, page.try_into().unwrap()));
            }
            for part in answer.chunks(100_000) {
                out.send_with(&Part::Pages(part.len().try_into().unwrap()), part).unwrap();
            }
        }
    }

    #[test]
    fn a_restored_job_gets_all_of_its_memory_and_first_what_it_waits_for() {
        let (memory, descriptor) = Memory::new(PAGES.try_into().unwrap());
        let (path, images) = images("all", &memory);
        let (source, target) = pair();
        let begin = memory.address();
        let serving = std::thread::spawn(move || serve(source, begin, 700));
        let listener = listen(&images).unwrap();
        let (out, mut input) = link::split(target).unwrap();
        let page = usize::try_from(inspect::page_size()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let restore = UnixStream::connect(path.join(SOCKET)).unwrap();
                introduce(&restore, &descriptor);
                // Nothing but this page is asked for yet, and the restore goes on only when it has come.
                assert_eq!(memory.read()[2000 * page + 5], low_byte(2000));
                (&restore).write_all(&RESTORED.to_ne_bytes()).unwrap();
            });
            fetch(&listener, &images, Following::new(&mut input), &out).unwrap();
        });
        for (n, page) in (0..).zip(memory.read().chunks(page)) {
            assert!(page.iter().all(|byte| *byte == low_byte(n)), "page {n}");
        }
        out.close();
        serving.join().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_restore_that_fails_or_never_comes_is_waited_for_no_longer() {
        for comes in [true, false] {
            let (memory, descriptor) = Memory::new(PAGES.try_into().unwrap());
            let (path, images) = images(&format!("failing-{comes}"), &memory);
            let (_source, target) = pair();
            let listener = listen(&images).unwrap();
            let restoring = crate::criu::Restoring::default();
            restoring.watch(listener.try_clone().unwrap().into());
            let (out, mut input) = link::split(target).unwrap();
            let error = std::thread::scope(|scope| {
                scope.spawn(|| {
                    if comes {
                        introduce(&UnixStream::connect(path.join(SOCKET)).unwrap(), &descriptor);
                    } else {
                        restoring.end();
                    }
                });
                fetch(&listener, &images, Following::new(&mut input), &out).unwrap_err()
            });
            assert!(error.starts_with("restoring: "), "{error}");
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[test]
    fn pages_that_were_not_asked_for_are_not_taken() {
        let (memory, descriptor) = Memory::new(PAGES.try_into().unwrap());
        let (path, images) = images("odd", &memory);
        let (source, target) = pair();
        // As if the memory began a page earlier: the answers have other addresses than the requests.
        let serving = std::thread::spawn(move || {
            let (out, mut input) = link::split(source).unwrap();
            let Ok(PagesAnswer(Bytes(mut answer))) = input.receive() else { return };
            answer[..4].copy_from_slice(&0x4_0006_u32.to_ne_bytes());
            let address = u64::from_ne_bytes(answer[16..24].try_into().unwrap()) - inspect::page_size();
            answer[16..24].copy_from_slice(&address.to_ne_bytes());
            out.send_with(&Part::Pages(answer.len().try_into().unwrap()), &answer).unwrap();
            while input.receive::<PagesAnswer>().is_ok() {}
        });
        let listener = listen(&images).unwrap();
        let (out, mut input) = link::split(target).unwrap();
        let restore = UnixStream::connect(path.join(SOCKET)).unwrap();
        introduce(&restore, &descriptor);
        (&restore).write_all(&RESTORED.to_ne_bytes()).unwrap();
        let error = fetch(&listener, &images, Following::new(&mut input), &out).unwrap_err();
        assert!(error.contains("not asked for"), "{error}");
        out.close();
        serving.join().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}
