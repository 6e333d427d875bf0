#include "program/chain.h"

#include "program/chain_builder.h"

namespace tqs {

Chain simplify(const Chain& chain) {
    ChainBuilder build(chain.inputs);
    const std::vector<std::int16_t> place = build.append(chain);
    for (const std::int16_t r : chain.outputs) build.chain().outputs.push_back(place[static_cast<std::size_t>(r)]);
    return drop_unused(build.chain());
}

Chain allocate_registers(const Chain& chain) {
    constexpr std::size_t kForever = static_cast<std::size_t>(-1);
    std::vector<std::size_t> last(static_cast<std::size_t>(chain.registers), 0);
    for (std::size_t index = 0; index < chain.code.size(); ++index) {
        const Instruction& code = chain.code[index];
        const std::int16_t arguments[] = {code.a, code.b, code.c};
        for (int argument = 0; argument < arity(code.op); ++argument) {
            last[static_cast<std::size_t>(arguments[argument])] = index;
        }
        if (code.op == Opcode::constant) last[static_cast<std::size_t>(code.out)] = kForever;
    }
    for (const std::int16_t r : chain.outputs) last[static_cast<std::size_t>(r)] = kForever;
    for (const std::int16_t r : chain.jacobian) {
        if (r >= 0) last[static_cast<std::size_t>(r)] = kForever;
    }
    for (const Instruction& code : chain.code) {
        if (code.op == Opcode::constant) last[static_cast<std::size_t>(code.out)] = kForever;
    }

    Chain result = chain;
    std::vector<std::int16_t> place(static_cast<std::size_t>(chain.registers));
    for (int i = 0; i < chain.inputs; ++i) place[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(i);
    int used = chain.inputs;
    std::vector<std::int16_t> free;
    for (std::size_t index = 0; index < chain.code.size(); ++index) {
        Instruction& code = result.code[index];
        std::int16_t* const arguments[] = {&code.a, &code.b, &code.c};
        std::vector<std::int16_t> ending;
        for (int argument = 0; argument < arity(code.op); ++argument) {
            const std::int16_t r = *arguments[argument];
            *arguments[argument] = place[static_cast<std::size_t>(r)];
            if (r >= chain.inputs && last[static_cast<std::size_t>(r)] == index) {
                ending.push_back(place[static_cast<std::size_t>(r)]);
                last[static_cast<std::size_t>(r)] = kForever;  // named twice, it ends once
            }
        }
        // A constant outlives the block, so it takes a register that nothing has been in.
        if (free.empty() || code.op == Opcode::constant) {
            code.out = static_cast<std::int16_t>(used++);
        } else {
            code.out = free.back();
            free.pop_back();
        }
        place[static_cast<std::size_t>(chain.code[index].out)] = code.out;
        free.insert(free.end(), ending.begin(), ending.end());
    }
    for (std::int16_t& r : result.outputs) r = place[static_cast<std::size_t>(r)];
    for (std::int16_t& r : result.jacobian) {
        if (r >= 0) r = place[static_cast<std::size_t>(r)];
    }
    result.registers = used;
    return result;
}

}  // namespace tqs
