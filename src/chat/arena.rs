//! A table whose entries are named by slot and generation, so that a stale name finds nothing.
//!
//! Invariant: no two entries of one arena ever had the same name, until 2^32 of them have been made: generations
//! are counted over the whole arena, which is why an empty one may give back all of its memory.

/// The table.
#[derive(Debug)]
pub(super) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
    next_generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Arena<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0, next_generation: 0 }
    }

    /// Adds an entry; the answer is its slot and generation.
    pub(super) fn insert(&mut self, value: T) -> (u32, u32) {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        self.len += 1;
        let entry = Slot { generation, value: Some(value) };
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = entry;
            return (slot, generation);
        }
        self.slots.push(entry);
        (self.slots.len() as u32 - 1, generation)
    }

    pub(super) fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        match self.slots.get(slot as usize) {
            Some(entry) if entry.generation == generation => entry.value.as_ref(),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        match self.slots.get_mut(slot as usize) {
            Some(entry) if entry.generation == generation => entry.value.as_mut(),
            _ => None,
        }
    }

    /// The entry in a slot, whatever its generation.
    pub(super) fn at(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    /// The entry in a slot, whatever its generation.
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.value.as_mut()
    }

    /// The generation of a slot's entry.
    pub(super) fn generation(&self, slot: u32) -> u32 {
        self.slots[slot as usize].generation
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        let entry = self.slots.get_mut(slot as usize).filter(|entry| entry.generation == generation)?;
        let value = entry.value.take()?;
        self.len -= 1;
        if self.len == 0 {
            self.slots = Vec::new();
            self.free = Vec::new();
        } else {
            self.free.push(slot);
        }
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Every entry with its slot and generation.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        let named = self.slots.iter().enumerate();
        named.filter_map(|(slot, entry)| entry.value.as_ref().map(|value| (slot as u32, entry.generation, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_names_find_nothing() {
        let mut arena = Arena::new();
        let (slot, generation) = arena.insert("a");
        let (other, other_generation) = arena.insert("b");
        assert_eq!(arena.remove(slot, generation), Some("a"));
        assert_eq!(arena.remove(slot, generation), None);
        let (again, newer) = arena.insert("c");
        assert_eq!(again, slot, "slots are used again");
        assert_eq!(arena.get(slot, generation), None);
        assert_eq!(arena.get_mut(slot, newer), Some(&mut "c"));
        assert_eq!(arena.get(other, other_generation), Some(&"b"));
        assert_eq!(arena.len(), 2);
    }

    #[test]
    fn an_emptied_arena_gives_its_memory_back_and_remembers_generations() {
        let mut arena = Arena::new();
        let names: Vec<_> = (0..100).map(|n| arena.insert(n)).collect();
        for &(slot, generation) in &names {
            arena.remove(slot, generation);
        }
        assert_eq!(arena.slots.capacity() + arena.free.capacity(), 0);
        arena.insert(7);
        assert!(names.iter().all(|&(slot, generation)| arena.get(slot, generation).is_none()));
        assert_eq!(arena.iter().count(), 1);
    }
}
