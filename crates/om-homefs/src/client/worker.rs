//! A thread that reads requests from the device and has home answer them.
//!
//! Home needs to hear everything but two things. A request that *waits* for a lock is asked as one that does
//! not; home says EAGAIN, and the [`waiter`](super::waiter) asks again: so nothing at home ever waits on behalf
//! of a guest. An INTERRUPT concerns only such a request; all others are over soon anyway. And a lock that is
//! refused is asked for once more, see [`slots`](super::slots).

use std::sync::Arc;

use nix::errno::Errno;

use crate::abi::{self, op};
use crate::frame::Buffer;
use crate::request::Header;

use super::channel::Channel;
use super::device::{Device, Taken};
use super::pool::Pool;

/// Answers requests until the session is over.
pub(super) fn work(pool: &Arc<Pool>, device: &Arc<Device>, number: u16) {
    let queue = match device.queue(&pool.stop) {
        Ok(queue) => queue,
        Err(error) => return log::error!("cannot wait for file requests: {error}"),
    };
    let mut channel = Channel::new(pool, number);
    let mut request = Buffer::new();
    loop {
        pool.slots.reading(number);
        match device.read(request.message_room()) {
            Taken::Request(length) => handle(pool, device, number, &mut channel, &mut request, length),
            Taken::Nothing => {
                pool.slots.idle(number);
                pool.idle();
                let go_on = queue.wait();
                pool.busy();
                if !go_on {
                    return;
                }
            }
            Taken::End => return pool.close(),
        }
    }
}

fn handle(
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    thread: u16,
    channel: &mut Channel<'_>,
    request: &mut Buffer,
    length: usize,
) {
    let message = request.message(length);
    let Some(header) = Header::parse(message) else {
        return log::error!("the kernel wrote a malformed file request");
    };
    pool.slots.carries(thread, header.opcode);
    if header.opcode == op::INTERRUPT {
        let interrupted =
            message.get(abi::IN_HEADER..abi::IN_HEADER + 8).and_then(|bytes| bytes.try_into().ok());
        return pool.waiter.interrupt(device, interrupted.map_or(0, u64::from_ne_bytes));
    }
    let mut reply = channel.call(request, length, header.unique);
    if header.opcode == op::SETLK && reply.is_some_and(is_taken) {
        pool.slots.await_releases();
        reply = channel.call(request, length, header.unique);
    }
    match reply {
        Some([]) => {}
        Some(reply) if header.opcode == op::SETLKW && is_taken(reply) => {
            pool.waiter.park(pool, device, header.unique, request.message(length));
        }
        Some(reply) => device.answer(reply),
        None if header.wants_reply() => device.refuse(header.unique, Errno::EIO),
        None => {}
    }
}

/// Whether a reply says that somebody else holds the lock.
pub(super) fn is_taken(reply: &[u8]) -> bool {
    reply.get(4..8) == Some(&(-(Errno::EAGAIN as i32)).to_ne_bytes())
}
