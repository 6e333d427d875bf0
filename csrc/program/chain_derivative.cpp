#include "program/chain_builder.h"

namespace tqs {
namespace {

// d register / d input: nothing, one, or a register.
struct Coefficient {
    std::int16_t value = kZeroCoefficient;
    bool zero() const { return value == kZeroCoefficient; }
    bool unit() const { return value == kUnitCoefficient; }
    bool operator==(const Coefficient&) const = default;
};

class Differentiator {
  public:
    explicit Differentiator(ChainBuilder& builder) : build_(builder) {}

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
                    return {multiply(b, build_.power(a, constant(*exponent - 1)))};
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

    ChainBuilder& build_;
};

}  // namespace

Chain differentiate(const Chain& chain) {
    ChainBuilder build(chain.inputs);
    const std::vector<std::int16_t> place = build.append(chain);
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

}  // namespace tqs
