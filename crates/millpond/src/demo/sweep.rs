//! Reading many ranges with several requests in flight, in order.

use std::collections::VecDeque;
use std::rc::Rc;

use block::{BlockError, ByteRange, ErrorKind, Result};
use engine::Reader;
use io::Lease;
use io::sync::oneshot;

/// Cuts `range` at multiples of `piece` bytes.
pub(super) fn pieces(range: ByteRange, piece: u64) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let head = rest.head(piece - rest.start() % piece);
        rest = rest.skip(head.len());
        (!head.is_empty()).then_some(head)
    })
}

/// Reads `ranges`, at most `depth` at a time, and hands their bytes to `each` in order.
pub(super) async fn sweep(
    reader: &Rc<Reader>,
    ranges: impl IntoIterator<Item = ByteRange>,
    depth: usize,
    mut each: impl FnMut(ByteRange, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut ranges = ranges.into_iter();
    let mut flying: VecDeque<(ByteRange, oneshot::Receiver<Result<Lease>>)> = VecDeque::new();
    loop {
        while flying.len() < depth {
            let Some(range) = ranges.next() else { break };
            flying.push_back((range, begin(reader, range)));
        }
        let Some((range, answer)) = flying.pop_front() else { return Ok(()) };
        let lost = |_| BlockError::new(ErrorKind::Cancelled, "a read was dropped");
        each(range, &answer.await.map_err(lost)??)?;
    }
}

fn begin(reader: &Rc<Reader>, range: ByteRange) -> oneshot::Receiver<Result<Lease>> {
    let (answer, answered) = oneshot::channel();
    let reader = reader.clone();
    io::spawn(async move {
        // Nobody may be waiting any more.
        let _ = answer.send(reader.read(range).await);
    });
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_share_boundaries() {
        let cut = |start, end| pieces(ByteRange::between(start, end), 10).collect::<Vec<_>>();
        let r = ByteRange::between;
        assert_eq!(cut(3, 25), [r(3, 10), r(10, 20), r(20, 25)]);
        assert_eq!(cut(10, 20), [r(10, 20)]);
        assert_eq!(cut(4, 4), []);
    }
}
