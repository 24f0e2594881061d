//! What a lying image of 1 MiB has the whole process take, libraries and allocator included.

use super::lab::{Lab, PYTHON, said};

/// Most memory of a process, in KiB.
const MOST: u64 = 64 << 10;

/// Makes `bomb`, 8192 entries that name one compressed cluster of 64 KiB, and `again`, 60000 entries that name the same
/// tables of 512 bytes, each entry of which names one cluster.
const MAKE: &str = r#"
import struct, zlib
def image(name, bits, size, l1, words, more):
    data = bytearray(1 << 20)
    head = (b"QFI\xfb", 3, 0, 0, bits, size, 0, len(l1[1]), l1[0], 1 << bits, 1, 0, 0, 0, 0, 0, 4, 104)
    struct.pack_into(">4sIQIIQIIQQIIQQQQII", data, 0, *head)
    for at, table in [l1, *words]:
        struct.pack_into(">%dQ" % len(table), data, at, *table)
    data[more[0]:more[0] + len(more[1])] = more[1]
    open(name, "wb").write(data)
copied = 1 << 63
packer = zlib.compressobj(9, zlib.DEFLATED, -12)
packed = packer.compress(bytes(65536)) + packer.flush()
entries = [1 << 62 | 0x50000] * 8192
image("bomb", 16, 8192 << 16, (0x30000, [copied | 0x40000]), [(0x40000, entries)], (0x50000, packed))
tables = range(0x80000, 1 << 20, 512)
l1 = [copied | tables[number % len(tables)] for number in range(60000)]
image("again", 9, 60000 * 64 * 512, (0x4000, l1), [(at, [copied | 0x80000] * 64) for at in tables], (0, b""))
"#;

/// Runs its arguments and says how much memory that took.
const MEASURE: &str = "
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
";

#[test]
fn no_process_takes_more_than_64_mib_for_an_image_of_one() {
    let name = "no_process_takes_more_than_64_mib_for_an_image_of_one";
    let Some(lab) = Lab::new(name, &[PYTHON]) else { return };
    lab.ok(PYTHON, &["-c", MAKE]);
    for call in [
        "convert -O raw bomb out",
        "convert -c -O qcow2 bomb out",
        "compare bomb bomb",
        "dd if=bomb of=out bs=1M",
        "bench -d 8 -s 1M -c 600 bomb",
        "compare again again",
    ] {
        let arguments: Vec<_> =
            ["-c", MEASURE, "millpond", "img"].into_iter().chain(call.split(' ')).collect();
        let output = lab.run(PYTHON, &arguments);
        let taken: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default();
        assert!(
            output.status.success() && (1..=MOST).contains(&taken),
            "{call}: {taken} KiB {}",
            said(&output)
        );
        println!("{call}: {taken} KiB");
    }
}
