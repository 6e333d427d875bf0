#include "program/chain.h"

#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <tuple>

#include "core/check.h"

namespace tqs {
namespace {

// Appends instructions in single-assignment form, each distinct one once.
class Builder {
  public:
    explicit Builder(int inputs) { chain_.inputs = chain_.registers = inputs; }

    std::int16_t constant(double value) { return emit(Opcode::constant, 0, 0, 0, value); }

    std::int16_t emit(Opcode op, std::int16_t a, std::int16_t b = 0, std::int16_t c = 0, double value = 0.0) {
        std::uint64_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        const auto [entry, fresh] =
            known_.try_emplace({op, a, b, c, bits}, static_cast<std::int16_t>(chain_.registers));
        if (fresh) {
            require(chain_.registers < 16384, "elementwise", "a chain of ", chain_.code.size(),
                    " instructions is too long; split it");
            chain_.code.push_back({op, entry->second, a, b, c, value});
            ++chain_.registers;
        }
        return entry->second;
    }

    // The value of a register that holds a constant.
    std::optional<double> value_of(std::int16_t r) const {
        if (r < chain_.inputs) return std::nullopt;
        const Instruction& code = chain_.code[static_cast<std::size_t>(r - chain_.inputs)];
        return code.op == Opcode::constant ? std::optional(code.value) : std::nullopt;
    }

    Chain& chain() { return chain_; }

  private:
    Chain chain_;
    std::map<std::tuple<Opcode, std::int16_t, std::int16_t, std::int16_t, std::uint64_t>, std::int16_t> known_;
};

// a^b for a constant b as products, square roots and reciprocals, as torch does.
std::int16_t emit_power(Builder& build, std::int16_t a, std::int16_t b) {
    const double exponent = build.value_of(b).value_or(std::nan(""));
    const auto square = [&] {
        return build.emit(Opcode::multiply, a, a);
    };
    if (exponent == 0.0) return build.constant(1);
    if (exponent == 1.0) return a;
    if (exponent == 2.0) return square();
    if (exponent == 3.0) return build.emit(Opcode::multiply, square(), a);
    if (exponent == 0.5) return build.emit(Opcode::square_root, a);
    if (exponent == -0.5) return build.emit(Opcode::reciprocal_square_root, a);
    if (exponent == -1.0) return build.emit(Opcode::reciprocal, a);
    if (exponent == -2.0) return build.emit(Opcode::reciprocal, square());
    return build.emit(Opcode::power, a, b);
}

// d register / d input: nothing, one, or a register.
struct Coefficient {
    std::int16_t value = kZeroCoefficient;
    bool zero() const { return value == kZeroCoefficient; }
    bool unit() const { return value == kUnitCoefficient; }
    bool operator==(const Coefficient&) const = default;
};

class Differentiator {
  public:
    explicit Differentiator(Builder& builder) : build_(builder) {}

    // d out / d x of `code` (out = op(a, b, c)), with those of its arguments.
    Coefficient apply(const Instruction& code, Coefficient da, Coefficient db, Coefficient dc) {
        const std::int16_t a = code.a, b = code.b, y = code.out;
        switch (code.op) {
            case Opcode::add:
                return sum(da, db);
            case Opcode::subtract:
                return sum(da, negate(db));
            case Opcode::negate:
                return negate(da);
            case Opcode::where:
                return select(a, db, dc);
            case Opcode::relu:
                return select(build_.emit(Opcode::greater, a, constant(0)), da, {});
            case Opcode::maximum:
                return extremum(Opcode::greater, a, b, da, db);
            case Opcode::minimum:
                return extremum(Opcode::less, a, b, da, db);
            default:
                break;
        }
        // All others by the partial derivatives; one is only built where it is needed.
        Coefficient total = da.zero() ? Coefficient{} : times(first(code, a, b, y), da);
        if (!db.zero()) total = sum(total, times(second(code, a, b, y), db));
        return total;
    }

  private:
    std::int16_t constant(double value) { return build_.constant(value); }
    std::int16_t add(std::int16_t a, std::int16_t b) { return build_.emit(Opcode::add, a, b); }
    std::int16_t subtract(std::int16_t a, std::int16_t b) { return build_.emit(Opcode::subtract, a, b); }
    std::int16_t multiply(std::int16_t a, std::int16_t b) { return build_.emit(Opcode::multiply, a, b); }
    std::int16_t one_minus(std::int16_t a) { return subtract(constant(1), a); }
    std::int16_t square(std::int16_t a) { return multiply(a, a); }

    std::int16_t as_register(Coefficient d) { return d.zero() ? constant(0) : d.unit() ? constant(1) : d.value; }
    Coefficient negate(Coefficient d) {
        if (d.zero()) return d;
        if (d.unit()) return {constant(-1)};
        if (const auto value = build_.value_of(d.value)) return {constant(-*value)};
        return {build_.emit(Opcode::negate, d.value)};
    }
    Coefficient sum(Coefficient d, Coefficient e) {
        if (d.zero()) return e;
        if (e.zero()) return d;
        const std::int16_t left = as_register(d), right = as_register(e);
        const auto u = build_.value_of(left), v = build_.value_of(right);
        return {u && v ? constant(*u + *v) : add(left, right)};
    }
    Coefficient times(Coefficient d, Coefficient e) {
        if (d.zero() || e.zero()) return {};
        if (d.unit()) return e;
        if (e.unit()) return d;
        const auto u = build_.value_of(d.value), v = build_.value_of(e.value);
        return {u && v ? constant(*u * *v) : multiply(d.value, e.value)};
    }
    Coefficient select(std::int16_t condition, Coefficient d, Coefficient e) {
        if (d == e) return d;
        return {build_.emit(Opcode::where, condition, as_register(d), as_register(e))};
    }
    // The derivative of the argument that wins; of both in equal parts where neither does.
    Coefficient extremum(Opcode wins, std::int16_t a, std::int16_t b, Coefficient da, Coefficient db) {
        if (da == db) return da;
        const Coefficient mean = times({constant(0.5)}, sum(da, db));
        return select(build_.emit(wins, a, b), da, select(build_.emit(wins, b, a), db, mean));
    }

    // d out / d a.
    Coefficient first(const Instruction& code, std::int16_t a, std::int16_t b, std::int16_t y) {
        switch (code.op) {
            case Opcode::absolute:
                return {build_.emit(Opcode::sign, a)};
            case Opcode::square_root:
                return {build_.emit(Opcode::divide, constant(0.5), y)};
            case Opcode::reciprocal_square_root:
                return {multiply(constant(-0.5), multiply(y, square(y)))};
            case Opcode::reciprocal:
                return {build_.emit(Opcode::negate, square(y))};
            case Opcode::exp:
                return {y};
            case Opcode::expm1:
                return {add(y, constant(1))};
            case Opcode::log:
                return {build_.emit(Opcode::reciprocal, a)};
            case Opcode::log1p:
                return {build_.emit(Opcode::reciprocal, add(a, constant(1)))};
            case Opcode::sin:
                return {build_.emit(Opcode::cos, a)};
            case Opcode::cos:
                return {build_.emit(Opcode::negate, build_.emit(Opcode::sin, a))};
            case Opcode::tan:
                return {add(constant(1), square(y))};
            case Opcode::atan:
                return {build_.emit(Opcode::reciprocal, add(constant(1), square(a)))};
            case Opcode::sinh:
                return {build_.emit(Opcode::cosh, a)};
            case Opcode::cosh:
                return {build_.emit(Opcode::sinh, a)};
            case Opcode::tanh:
                return {one_minus(square(y))};
            case Opcode::sigmoid:
                return {multiply(y, one_minus(y))};
            case Opcode::error_function:
                return {multiply(constant(1.1283791670955126), gaussian(square(a)))};
            case Opcode::gelu: {  // Phi(x) + x phi(x)
                const std::int16_t erf = build_.emit(Opcode::error_function, multiply(a, constant(0.7071067811865476)));
                const std::int16_t density = gaussian(multiply(constant(0.5), square(a)));
                const std::int16_t below = multiply(constant(0.5), add(constant(1), erf));
                return {add(below, multiply(a, multiply(constant(0.3989422804014327), density)))};
            }
            case Opcode::gelu_tanh: {  // x s(v), v = 2 sqrt(2 / pi) (x + 0.044715 x^3): s + x s (1 - s) v'
                constexpr double linear = 1.5957691216057308, cubic = 0.044715 * linear;
                const std::int16_t squared = square(a);
                const std::int16_t v = multiply(a, add(constant(linear), multiply(constant(cubic), squared)));
                const std::int16_t slope = add(constant(linear), multiply(constant(3 * cubic), squared));
                const std::int16_t s = build_.emit(Opcode::sigmoid, v);
                return {add(s, multiply(multiply(a, slope), multiply(s, one_minus(s))))};
            }
            case Opcode::silu: {  // s + y (1 - s)
                const std::int16_t s = build_.emit(Opcode::sigmoid, a);
                return {add(s, multiply(y, one_minus(s)))};
            }
            case Opcode::softplus:
                return {build_.emit(Opcode::sigmoid, a)};
            case Opcode::multiply:
                return {b};
            case Opcode::divide:
                return {build_.emit(Opcode::reciprocal, b)};
            case Opcode::power: {  // b a^(b - 1), and 0 for b = 0 whatever a is
                if (const auto exponent = build_.value_of(b)) {
                    return {multiply(b, emit_power(build_, a, constant(*exponent - 1)))};
                }
                const std::int16_t slope = multiply(b, build_.emit(Opcode::power, a, subtract(b, constant(1))));
                return {build_.emit(Opcode::where, b, slope, constant(0))};
            }
            case Opcode::remainder:
                return {kUnitCoefficient};
            case Opcode::atan2:
                return {build_.emit(Opcode::divide, b, add(square(a), square(b)))};
            default:
                return {};  // piecewise constant
        }
    }

    // d out / d b.
    Coefficient second(const Instruction& code, std::int16_t a, std::int16_t b, std::int16_t y) {
        switch (code.op) {
            case Opcode::multiply:
                return {a};
            case Opcode::divide:
                return {build_.emit(Opcode::negate, build_.emit(Opcode::divide, y, b))};
            case Opcode::power: {  // a^b log(a), and 0 for a = 0, b >= 0
                const std::int16_t still = build_.emit(Opcode::logical_and, build_.emit(Opcode::equal, a, constant(0)),
                                                       build_.emit(Opcode::greater_equal, b, constant(0)));
                return {build_.emit(Opcode::where, still, constant(0), multiply(y, build_.emit(Opcode::log, a)))};
            }
            case Opcode::remainder:
                return {build_.emit(Opcode::negate, build_.emit(Opcode::floor_divide, a, b))};
            case Opcode::atan2: {
                const std::int16_t norm = add(square(a), square(b));
                return {build_.emit(Opcode::negate, build_.emit(Opcode::divide, a, norm))};
            }
            default:
                return {};
        }
    }

    std::int16_t gaussian(std::int16_t exponent) {
        return build_.emit(Opcode::exp, build_.emit(Opcode::negate, exponent));
    }

    Builder& build_;
};

// Appends the chain's instructions; returns where each of its registers is now.
std::vector<std::int16_t> append(Builder& build, const Chain& chain) {
    std::vector<std::int16_t> place(static_cast<std::size_t>(chain.registers));
    for (int i = 0; i < chain.inputs; ++i) place[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(i);
    for (const Instruction& code : chain.code) {
        const int arguments = arity(code.op);
        const std::int16_t a = arguments > 0 ? place[static_cast<std::size_t>(code.a)] : std::int16_t{0};
        const std::int16_t b = arguments > 1 ? place[static_cast<std::size_t>(code.b)] : std::int16_t{0};
        const std::int16_t c = arguments > 2 ? place[static_cast<std::size_t>(code.c)] : std::int16_t{0};
        place[static_cast<std::size_t>(code.out)] = code.op == Opcode::power
                                                        ? emit_power(build, a, b)
                                                        : build.emit(code.op, a, b, c, arguments ? 0.0 : code.value);
    }
    return place;
}

// Which instructions the outputs and the Jacobian need.
std::vector<bool> find_needed(const Chain& chain) {
    std::vector<bool> live(static_cast<std::size_t>(chain.registers));
    const auto mark = [&](std::int16_t r) {
        if (r >= 0) live[static_cast<std::size_t>(r)] = true;
    };
    for (const std::int16_t r : chain.outputs) mark(r);
    for (const std::int16_t r : chain.jacobian) mark(r);
    std::vector<bool> needed(chain.code.size());
    for (std::size_t index = chain.code.size(); index-- > 0;) {
        const Instruction& code = chain.code[index];
        if (!live[static_cast<std::size_t>(code.out)]) continue;
        needed[index] = true;
        const std::int16_t arguments[] = {code.a, code.b, code.c};
        for (int argument = 0; argument < arity(code.op); ++argument) mark(arguments[argument]);
    }
    return needed;
}

Chain drop_unused(const Chain& chain) {
    const std::vector<bool> needed = find_needed(chain);
    Chain result = chain;
    result.code.clear();
    for (std::size_t index = 0; index < chain.code.size(); ++index) {
        if (needed[index]) result.code.push_back(chain.code[index]);
    }
    return result;
}

}  // namespace

Chain simplify(const Chain& chain) {
    Builder build(chain.inputs);
    const std::vector<std::int16_t> place = append(build, chain);
    for (const std::int16_t r : chain.outputs) build.chain().outputs.push_back(place[static_cast<std::size_t>(r)]);
    return drop_unused(build.chain());
}

Chain differentiate(const Chain& chain) {
    Builder build(chain.inputs);
    const std::vector<std::int16_t> place = append(build, chain);
    // As appended: simple powers are products by now, and have simpler derivatives.
    const std::vector<Instruction> primal = build.chain().code;
    const auto inputs = static_cast<std::size_t>(chain.inputs);
    std::vector<std::vector<Coefficient>> rows(inputs + primal.size(), std::vector<Coefficient>(inputs));
    for (std::size_t i = 0; i < inputs; ++i) rows[i][i].value = kUnitCoefficient;
    Differentiator rules(build);
    for (const Instruction& code : primal) {
        const int arguments = arity(code.op);
        for (std::size_t i = 0; i < inputs; ++i) {
            const auto of = [&](std::int16_t r, bool used) {
                return used ? rows[static_cast<std::size_t>(r)][i] : Coefficient{};
            };
            const Coefficient da = of(code.a, arguments > 0), db = of(code.b, arguments > 1),
                              dc = of(code.c, arguments > 2);
            if (da.zero() && db.zero() && dc.zero()) continue;
            rows[static_cast<std::size_t>(code.out)][i] = rules.apply(code, da, db, dc);
        }
    }
    Chain& result = build.chain();
    for (const std::int16_t r : chain.outputs) {
        result.outputs.push_back(place[static_cast<std::size_t>(r)]);
        for (const Coefficient& d : rows[static_cast<std::size_t>(result.outputs.back())]) {
            result.jacobian.push_back(d.value);
        }
    }
    return drop_unused(result);
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
