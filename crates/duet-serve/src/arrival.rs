//! When the bytes of a request came.
//!
//! Between the moment in which the runtime sees that a connection has something to read and that in which it is read lies the work of
//! everybody who came before. Under load that is a good part of a request's waiting, and no queue of ours sees it. So the waker that a
//! read leaves behind notes when it is called. What the runtime itself does not see yet, because all its threads are at work, is not
//! noted: they look every few tasks.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When the bytes of a request had come; in the extensions of every request that the router gets.
#[derive(Debug, Clone, Copy)]
pub struct Arrived(pub Instant);

/// The arrivals on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<Times>>);

#[derive(Debug, Default)]
struct Times {
    /// When the read that waits was called back.
    woken: Option<Instant>,
    /// That of the last read that brought something.
    read: Option<Instant>,
}

impl Arrivals {
    /// When what was read last had come: now, where it was there before it was asked for.
    pub(crate) fn last(&self) -> Instant {
        self.lock().read.unwrap_or_else(Instant::now)
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let now = Instant::now();
        self.lock().woken.get_or_insert(now);
    }

    fn read(&self, has_come: bool) {
        let mut times = self.lock();
        let woken = times.woken.take();
        if has_come {
            times.read = woken;
        }
    }
}

/// Notes the time and calls back.
struct Noting {
    arrivals: Arrivals,
    task: Waker,
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.arrivals.wake();
        self.task.wake_by_ref();
    }
}

/// A stream whose arrivals are noted.
pub(crate) struct Noted<S> {
    stream: S,
    arrivals: Arrivals,
    /// The task that reads, and the waker that notes for it: made once, for a connection stays with its task.
    wakers: Option<(Waker, Waker)>,
}

impl<S> Noted<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, arrivals: Arrivals::default(), wakers: None }
    }

    /// What is noted.
    pub(crate) fn arrivals(&self) -> Arrivals {
        self.arrivals.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, arrivals, wakers } = &mut *self;
        let task = context.waker();
        if !wakers.as_ref().is_some_and(|(known, _)| known.will_wake(task)) {
            let noting = Noting { arrivals: arrivals.clone(), task: task.clone() };
            *wakers = Some((task.clone(), Waker::from(Arc::new(noting))));
        }
        let waker = wakers.as_ref().map_or(task, |(_, noting)| noting);
        let before = into.filled().len();
        let read = Pin::new(stream).poll_read(&mut Context::from_waker(waker), into);
        arrivals.read(read.is_ready() && into.filled().len() > before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const BUSY: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn the_time_between_the_call_and_the_read_is_known() {
        let (mut theirs, ours) = duplex(64);
        let mut ours = Noted::new(ours);
        let arrivals = ours.arrivals();
        let reading = tokio::spawn(async move {
            let mut taken = [0; 4];
            ours.read_exact(&mut taken).await.unwrap();
            (Instant::now(), ours)
        });
        // On one thread: the read waits by now.
        tokio::task::yield_now().await;
        let sent = Instant::now();
        theirs.write_all(b"here").await.unwrap();
        // The thread has something else to do first.
        std::thread::sleep(BUSY);
        let (read, mut ours) = reading.await.unwrap();
        let arrived = arrivals.last();
        assert!(arrived >= sent && read - arrived >= BUSY, "{:?}", read - arrived);
        // What is there when it is asked for has not waited for us.
        theirs.write_all(b"next").await.unwrap();
        std::thread::sleep(BUSY);
        let asked = Instant::now();
        ours.read_exact(&mut [0; 4]).await.unwrap();
        assert!(arrivals.last() >= asked);
    }
}
