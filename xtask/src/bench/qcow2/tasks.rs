//! What is measured.

use super::images::Kind;

/// What is done to an image.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// An image is served and fio's nbd engine works on it, with these options; the time is fio's, a last flush
    /// included.
    Served(&'static str),
    /// The same after a run of fio that is not measured, with the first options.
    ServedAfter(&'static str, &'static str),
    /// Arguments of an image tool: `IMAGE` stands for the image and `OUT` for a file that is not there yet.
    Tool(&'static str, Until),
    /// The same, where the tool copies the bytes of the disk as they are.
    Copy(&'static str, Until),
}

/// When an image tool is through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It has ended.
    Ended,
    /// What it has written is on disk, too: whoever leaves that to others is not done before.
    OnDisk,
}

/// One thing that is measured.
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) image: Kind,
    pub(super) work: Work,
    /// Most of QEMU's time that it shall take, or of its CPU time where a server only reads.
    pub(super) goal: f64,
}

/// Reading what lies in the lowest layer, after it has been read once.
const CHAIN: Work = Work::ServedAfter(
    "--rw=read --bs=64k --iodepth=16",
    "--rw=randread --bs=4k --iodepth=16 --norandommap --io_size=512m",
);

/// All tasks; the only list of them.
pub(super) const TASKS: &[Task] = &[
    Task {
        name: "w4k-first",
        title: "65,536 random writes of 4 KiB all over 40 GiB, nineteen in twenty to a fresh cluster, depth 16",
        image: Kind::Fresh,
        // With aligned blocks fio goes to a place more than once: there must be many more clusters than writes.
        work: Work::Served(
            "--rw=randwrite --bs=4k --blockalign=64k --number_ios=65536 --iodepth=16 --end_fsync=1",
        ),
        goal: 0.5,
    },
    Task {
        name: "w64k-first",
        title: "64 KiB random writes, each to a fresh cluster, depth 16",
        image: Kind::Empty,
        work: Work::Served("--rw=randwrite --bs=64k --iodepth=16 --end_fsync=1"),
        goal: 0.5,
    },
    Task {
        name: "w4k-again",
        title: "4 KiB random writes to what the same server has written, depth 16",
        image: Kind::Empty,
        // An image that a tool has copied lies in the page cache in pieces of up to 2 MiB: each small write to ext4
        // then looks at all blocks of one, which is half of the time of whoever writes.
        work: Work::ServedAfter(
            "--rw=write --bs=64k --iodepth=16 --end_fsync=1",
            "--rw=randwrite --bs=4k --iodepth=16 --end_fsync=1",
        ),
        goal: 0.5,
    },
    Task {
        name: "r4k-wide",
        title: "100,000 random reads of 4 KiB all over 40 GiB of allocated clusters, depth 16",
        image: Kind::Wide,
        // What is read was written: QEMU's server answers for a hole of the host's file without reading it. Both runs
        // of fio go to the same places.
        work: Work::ServedAfter(
            "--rw=randwrite --bs=4k --iodepth=16 --norandommap --number_ios=100000 --end_fsync=1",
            "--rw=randread --bs=4k --iodepth=16 --norandommap --number_ios=100000",
        ),
        goal: 0.4,
    },
    Task {
        name: "r4k-chain1",
        title: "4 KiB random reads of one layer, depth 16",
        image: Kind::Chain(1),
        work: CHAIN,
        goal: 0.4,
    },
    Task {
        name: "r4k-chain8",
        title: "the same through a chain of 8",
        image: Kind::Chain(8),
        work: CHAIN,
        goal: 0.4,
    },
    Task {
        name: "r4k-chain64",
        title: "the same through a chain of 64, within a tenth of one layer",
        image: Kind::Chain(64),
        work: CHAIN,
        goal: 0.4,
    },
    Task {
        name: "from-raw",
        title: "convert raw to qcow2, until it is on disk",
        image: Kind::Raw,
        work: Work::Copy("convert -f raw -O qcow2 IMAGE OUT", Until::OnDisk),
        goal: 0.7,
    },
    Task {
        name: "to-raw",
        title: "convert qcow2 to raw, until it is on disk",
        image: Kind::Full,
        work: Work::Copy("convert -f qcow2 -O raw IMAGE OUT", Until::OnDisk),
        goal: 0.7,
    },
    Task {
        name: "zstd",
        title: "convert raw to compressed qcow2 (zstd), until it is on disk",
        image: Kind::Raw,
        work: Work::Tool("convert -f raw -O qcow2 -c -o compression_type=zstd IMAGE OUT", Until::OnDisk),
        goal: 0.7,
    },
    Task {
        name: "from-raw-cached",
        title: "convert raw to qcow2 in the page cache (-t unsafe -T writeback), the command alone",
        image: Kind::Raw,
        work: Work::Copy("convert -t unsafe -T writeback -f raw -O qcow2 IMAGE OUT", Until::Ended),
        goal: 0.7,
    },
    Task {
        name: "to-raw-cached",
        title: "convert qcow2 to raw in the page cache (-t unsafe -T writeback), the command alone",
        image: Kind::Full,
        work: Work::Copy("convert -t unsafe -T writeback -f qcow2 -O raw IMAGE OUT", Until::Ended),
        goal: 0.7,
    },
    Task {
        name: "check",
        title: "check of many allocated clusters",
        image: Kind::Many,
        work: Work::Tool("check -q -f qcow2 IMAGE", Until::Ended),
        goal: 0.3,
    },
];
