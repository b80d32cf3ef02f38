//! Finds where this program's image lies in memory, and which file the program is.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use nix::libc;

/// Constructor: a function of an image that the loader calls before `main`.
pub(crate) type Constructor =
    extern "C" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char);

/// Fixed point in every copy of this image. Processes tell each other addresses as distances from
/// it.
static ANCHOR: u8 = 0;

/// Loaded image that contains this crate.
#[derive(Debug)]
pub(crate) struct Image {
    readable: Vec<Range<usize>>,
    identity: u64,
}

impl Image {
    /// Returns this process's image. The first call looks it up.
    pub(crate) fn get() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| Image { readable: loaded::segments(anchor()), identity: identity() })
    }

    /// Returns a number that is equal in two processes exactly if both execute the same, unchanged
    /// file. If the image is a shared library, nothing compares the file of the library.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Returns the distance of `value` from the anchor; `None` if `value` is not in this image.
    pub(crate) fn offset_of<T>(&self, value: &'static T) -> Option<i64> {
        let address = std::ptr::from_ref(value) as usize;
        self.holds::<T>(address).then(|| address.wrapping_sub(anchor()) as i64)
    }

    /// Returns the `T` at a distance from the anchor, if a whole aligned `T` fits into this image
    /// there.
    ///
    /// `check` gets the first 16 bytes and decides whether they belong to a `T` at all.
    pub(crate) fn at_offset<T>(
        &self,
        offset: i64,
        check: impl Fn(&[u8; 16]) -> bool,
    ) -> Option<&'static T> {
        const { assert!(size_of::<T>() >= 16) };
        let address = anchor().wrapping_add(offset as usize);
        if !self.holds::<T>(address) {
            return None;
        }
        // SAFETY: the 16 bytes at this address lie in a readable segment, which stays mapped for
        // the life of the process, and bytes have no invalid values. (Where the segments are only
        // guessed, the offset is from `offset_of` in a process of the same program.)
        let head = unsafe { &*(address as *const [u8; 16]) };
        if !check(head) {
            return None;
        }
        // SAFETY: `holds` has checked that the address is readable and aligned. `check` has found
        // the mark that only entries of functions carry (`call/function.rs`). All these entries
        // have the layout of T: both processes run the same program, which `Name::resolve` has
        // compared.
        Some(unsafe { &*(address as *const T) })
    }

    fn holds<T>(&self, address: usize) -> bool {
        let Some(end) = address.checked_add(size_of::<T>()) else { return false };
        address.is_multiple_of(align_of::<T>())
            && self.readable.iter().any(|segment| segment.start <= address && end <= segment.end)
    }
}

fn anchor() -> usize {
    &raw const ANCHOR as usize
}

/// Returns a hash of the executed file's device, inode, size and modification time.
fn identity() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    // /proc/self/exe leads to the executed file even after the file was replaced on disk.
    let file = std::fs::metadata("/proc/self/exe")
        .or_else(|_| std::env::current_exe().and_then(std::fs::metadata));
    let mut hasher = DefaultHasher::new();
    if let Ok(file) = file {
        (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether executing this process's program again loads this image. That is so if the image is the
/// program, or one of the libraries that the program is linked with. It is not so if the program
/// has loaded the image later, as a plug-in: such a program knows nothing of this crate.
pub(crate) fn is_of_our_program() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| loaded::is_linked_with(anchor()))
}

/// Returns the constructors of this image, in the order in which the loader calls them.
pub(crate) fn constructors() -> Vec<Constructor> {
    loaded::constructors(anchor())
}

/// Guesses the answers on systems without a list of the loaded objects.
#[cfg(not(target_os = "linux"))]
mod loaded {
    pub(super) fn is_linked_with(_: usize) -> bool {
        true
    }

    pub(super) fn constructors(_: usize) -> Vec<super::Constructor> {
        Vec::new()
    }

    /// Returns the two gigabytes around `address`, within which the program's image is assumed to
    /// lie.
    pub(super) fn segments(address: usize) -> Vec<std::ops::Range<usize>> {
        vec![address.saturating_sub(1 << 30)..address.saturating_add(1 << 30)]
    }
}

/// Lists the objects that the loader has loaded, and the objects that each of them needs.
#[cfg(target_os = "linux")]
mod loaded {
    use super::Constructor;
    use nix::libc;
    use std::ffi::{CStr, OsStr};
    use std::ops::Range;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    #[derive(Default)]
    struct Object {
        name: Vec<u8>,
        needs: Vec<Vec<u8>>,
        constructors: Vec<Constructor>,
        /// Readable address ranges.
        segments: Vec<Range<usize>>,
        holds_address: bool,
    }

    /// Whether the object that contains `address` is the program, or is an object that the program
    /// needs, directly or through other objects.
    pub(super) fn is_linked_with(address: usize) -> bool {
        let objects = objects(address);
        // The program is the first object.
        let mut reached = vec![0];
        let mut next = 0;
        while let Some(object) = reached.get(next).and_then(|index: &usize| objects.get(*index)) {
            if object.holds_address {
                return true;
            }
            for (index, other) in objects.iter().enumerate() {
                if !reached.contains(&index) && object.needs.contains(&other.name) {
                    reached.push(index);
                }
            }
            next += 1;
        }
        objects.is_empty() // the loader tells nothing: assume the usual case
    }

    /// Returns the constructors of the object that contains `address`.
    pub(super) fn constructors(address: usize) -> Vec<Constructor> {
        holder(address).constructors
    }

    /// Returns the readable segments of the object that contains `address`.
    pub(super) fn segments(address: usize) -> Vec<Range<usize>> {
        holder(address).segments
    }

    fn holder(address: usize) -> Object {
        let ours = objects(address).into_iter().find(|object| object.holds_address);
        ours.unwrap_or_default()
    }

    /// Returns all loaded objects, the program first.
    fn objects(address: usize) -> Vec<Object> {
        let mut search = (address, Vec::new());
        // SAFETY: `visit` has the right signature, and `search` outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.1
    }

    extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes a valid info for the duration of this call.
        let info = unsafe { &*info };
        // SAFETY: `data` is what `objects` has lent to `dl_iterate_phdr`.
        let (address, objects) = unsafe { &mut *data.cast::<(usize, Vec<Object>)>() };
        // SAFETY: the loader's table has dlpi_phnum headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let base = info.dlpi_addr as usize;
        let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let segments = loaded.map(|header| {
            let start = base + header.p_vaddr as usize;
            (header.p_flags, start..start + header.p_memsz as usize)
        });
        let segments: Vec<_> = segments.collect();
        let holds_address = segments.iter().any(|(_, range)| range.contains(address));
        let readable = segments.into_iter().filter(|(flags, _)| flags & libc::PF_R != 0);
        let path = match info.dlpi_name.is_null() {
            true => &[],
            // SAFETY: the loader names each object by a C string.
            false => unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes(),
        };
        let name = Path::new(OsStr::from_bytes(path)).file_name().map(OsStr::as_bytes);
        let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC);
        let section = dynamic.map(|header| (base + header.p_vaddr as usize) as *const [usize; 2]);
        let section = section.map(|section| Section::read(base, section)).unwrap_or_default();
        objects.push(Object {
            name: name.unwrap_or_default().to_vec(),
            needs: section.needs(),
            constructors: if holds_address { section.constructors() } else { Vec::new() },
            segments: readable.map(|(_, range)| range).collect(),
            holds_address,
        });
        0
    }

    /// Dynamic section of an object, see elf(5): pairs of a kind and a value.
    #[derive(Default)]
    struct Section {
        base: usize,
        entries: Vec<[usize; 2]>,
    }

    impl Section {
        const NULL: usize = 0;
        const NEEDED: usize = 1;
        const STRINGS: usize = 5;
        const INIT_ARRAY: usize = 25;
        const INIT_ARRAY_SIZE: usize = 27;

        fn read(base: usize, section: *const [usize; 2]) -> Section {
            let mut entries = Vec::new();
            loop {
                // SAFETY: the pointer is still in the section of a loaded object, or at its end.
                let next = unsafe { section.add(entries.len()) };
                // SAFETY: the section is mapped, and ends with a NULL entry.
                let entry = unsafe { next.read() };
                if entry[0] == Section::NULL {
                    return Section { base, entries };
                }
                entries.push(entry);
            }
        }

        fn value(&self, wanted: usize) -> Option<usize> {
            self.entries.iter().find(|[kind, _]| *kind == wanted).map(|[_, value]| *value)
        }

        /// Returns a value as an address. Some loaders replace the value from the file by an
        /// address, others leave it.
        fn address(&self, wanted: usize) -> Option<usize> {
            let value = self.value(wanted)?;
            Some(if value < self.base { self.base + value } else { value })
        }

        /// Returns the names of the objects that this one needs.
        fn needs(&self) -> Vec<Vec<u8>> {
            let Some(strings) = self.address(Section::STRINGS) else { return Vec::new() };
            let needed = self.entries.iter().filter(|[kind, _]| *kind == Section::NEEDED);
            let name = |[_, offset]: &[usize; 2]| {
                // SAFETY: the offset is that of a string in the object's table of strings, which is
                // mapped.
                let name = unsafe { CStr::from_ptr((strings + offset) as *const libc::c_char) };
                name.to_bytes().to_vec()
            };
            needed.map(name).collect()
        }

        fn constructors(&self) -> Vec<Constructor> {
            let array = self.address(Section::INIT_ARRAY);
            let size = self.value(Section::INIT_ARRAY_SIZE);
            let (Some(array), Some(size)) = (array, size) else { return Vec::new() };
            let read = |index: usize| {
                let entry = (array + index * size_of::<usize>()) as *const Option<Constructor>;
                // SAFETY: the array has this many function pointers, which the loader calls; a null
                // pointer reads as `None`.
                unsafe { entry.read() }
            };
            // Some linkers fill up the array with -1.
            let is_function = |function: &Constructor| *function as usize != usize::MAX;
            (0..size / size_of::<usize>()).filter_map(read).filter(is_function).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(8))]
    #[expect(dead_code, reason = "read as bytes only")]
    struct Marked([u8; 16]);
    static MARKED: Marked = Marked(*b"0123456789abcdef");

    #[test]
    fn test_binary_is_of_our_program() {
        assert!(is_of_our_program());
    }

    #[test]
    fn at_offset_finds_what_offset_of_names() {
        let image = Image::get();
        let offset = image.offset_of(&MARKED).expect("a static lies in the image");
        let found: &Marked =
            image.at_offset(offset, |head| head == b"0123456789abcdef").expect("it is there");
        assert!(std::ptr::eq(found, &MARKED));
    }

    #[test]
    fn values_outside_the_image_are_refused() {
        let image = Image::get();
        let heap: &'static Marked = Box::leak(Box::new(Marked([0; 16])));
        assert_eq!(image.offset_of(heap), None);
        let offset = image.offset_of(&MARKED).expect("a static lies in the image");
        assert!(image.at_offset::<Marked>(offset, |_| false).is_none(), "wrong mark");
        assert!(image.at_offset::<Marked>(offset + 1, |_| true).is_none(), "not aligned");
        for far in [i64::MIN, i64::MAX, 1 << 40, -(1 << 40)] {
            assert!(image.at_offset::<Marked>(far & !7, |_| true).is_none(), "out of range {far}");
        }
    }
}
