//! A small assembler for programs in the kernel: just the instructions that a filter needs, with labels.
//!
//! Source: RFC 9669 (BPF Instruction Set Architecture). All jumps here go forward, so the kernel's verifier sees no loop.

use crate::sys::bpf::Instruction;

/// A register. `R0` is the result, `R1` to `R5` are arguments and lost in a call, `R6` to `R9` stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reg {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
}

/// Bytes of a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
}

/// When a jump on the low 32 bits of a register and a constant is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    Equal = 0x10,
    NotEqual = 0x50,
    /// Some bit of the constant is set.
    AnyBit = 0x40,
}

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label stands.
    labels: Vec<Option<usize>>,
    /// Jumps, and where they go.
    jumps: Vec<(usize, Label)>,
}

const LOAD_MEMORY: u8 = 0x61;
const JUMP: u8 = 0x05;
const JUMP_32: u8 = 0x06;
const JUMP_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOVE: u8 = 0xbf;
const MOVE_CONSTANT: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_CONSTANT: u8 = 0x07;
const AND_CONSTANT: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const TO_BIG_ENDIAN: u8 = 0xdc;
const LOAD_WIDE: u8 = 0x18;
const MAP_DESCRIPTOR: u8 = 1;

impl Assembler {
    fn push(&mut self, code: u8, to: Reg, from: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: to as u8 | from << 4, offset, immediate });
    }

    /// A label, to be set once.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Sets a label here.
    pub(super) fn here(&mut self, label: Label) {
        let at = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(at);
        }
    }

    /// `to = *(from + offset)`
    pub(super) fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) {
        self.push(LOAD_MEMORY | size as u8, to, from as u8, offset, 0);
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.push(MOVE, to, from as u8, 0, 0);
    }

    /// `to = constant`
    pub(super) fn set(&mut self, to: Reg, constant: i32) {
        self.push(MOVE_CONSTANT, to, 0, 0, constant);
    }

    /// `to += from`
    pub(super) fn add(&mut self, to: Reg, from: Reg) {
        self.push(ADD, to, from as u8, 0, 0);
    }

    /// `to += constant`
    pub(super) fn add_constant(&mut self, to: Reg, constant: i32) {
        self.push(ADD_CONSTANT, to, 0, 0, constant);
    }

    /// `to &= constant`
    pub(super) fn and(&mut self, to: Reg, constant: i32) {
        self.push(AND_CONSTANT, to, 0, 0, constant);
    }

    /// `to <<= bits`
    pub(super) fn shift_left(&mut self, to: Reg, bits: i32) {
        self.push(SHIFT_LEFT, to, 0, 0, bits);
    }

    /// The low half of a register between the machine's byte order and the wire's.
    pub(super) fn swap_half(&mut self, to: Reg) {
        self.push(TO_BIG_ENDIAN, to, 0, 0, 16);
    }

    /// `to = map`
    pub(super) fn set_map(&mut self, to: Reg, map: i32) {
        self.push(LOAD_WIDE, to, MAP_DESCRIPTOR, 0, map);
        self.push(0, Reg::R0, 0, 0, 0);
    }

    /// Goes on at the label.
    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JUMP, Reg::R0, 0, 0, 0);
    }

    /// Goes on at the label if the low 32 bits of a register compare so with a constant.
    pub(super) fn jump_if(&mut self, reg: Reg, when: When, constant: u32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JUMP_32 | when as u8, reg, 0, 0, constant.cast_signed());
    }

    /// Goes on at the label if `one > other`, both whole.
    pub(super) fn jump_if_greater(&mut self, one: Reg, other: Reg, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JUMP_GREATER, one, other as u8, 0, 0);
    }

    /// Calls a function of the kernel.
    pub(super) fn call(&mut self, function: i32) {
        self.push(CALL, Reg::R0, 0, 0, function);
    }

    /// Returns what is in `R0`.
    pub(super) fn exit(&mut self) {
        self.push(EXIT, Reg::R0, 0, 0, 0);
    }

    /// The program, its jumps resolved. `None` when a label was never set or is too far away.
    pub(super) fn finish(mut self) -> Option<Vec<Instruction>> {
        for (at, label) in self.jumps {
            let target = (*self.labels.get(label.0)?)?;
            let distance = i64::try_from(target).ok()? - i64::try_from(at).ok()? - 1;
            self.code.get_mut(at)?.offset = i16::try_from(distance).ok()?;
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_counted_from_the_next_instruction() {
        let mut program = Assembler::default();
        let end = program.label();
        program.jump_if(Reg::R3, When::Equal, 0xffff_fffe, end);
        program.set(Reg::R0, 7);
        program.here(end);
        program.exit();
        let bytes = |i: Instruction| (i.code, i.registers, i.offset, i.immediate);
        let code: Vec<_> = program.finish().unwrap().into_iter().map(bytes).collect();
        assert_eq!(code, [(0x16, 3, 1, -2), (0xb7, 0, 0, 7), (0x95, 0, 0, 0)]);
    }

    #[test]
    fn a_label_that_is_nowhere_or_too_far_is_refused() {
        let mut program = Assembler::default();
        let nowhere = program.label();
        program.jump(nowhere);
        assert!(program.finish().is_none());
        let mut program = Assembler::default();
        let far = program.label();
        program.jump(far);
        (0..40_000).for_each(|_| program.exit());
        program.here(far);
        assert!(program.finish().is_none());
    }
}
