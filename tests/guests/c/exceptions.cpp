// C++ exceptions through many frames, destructors in order, rethrow, types, threads; RTTI.
#include <cstdio>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

static int live;
struct Traced {
    int id;
    explicit Traced(int id) : id(id) { live++; }
    ~Traced() { live--; if (id % 10 == 0) std::printf("~%d ", id); }
};
struct Base { virtual ~Base() = default; virtual int speak() const { return 1; } };
struct Left : virtual Base { int speak() const override { return 2; } };
struct Right : virtual Base { int extra = 3; };
struct Both : Left, Right { int speak() const override { return 4; } };
struct Custom : std::runtime_error { int code; Custom(int code) : std::runtime_error("custom " + std::to_string(code)), code(code) {} };

static void dive(int depth) {
    Traced traced(depth);
    double kept = depth * 0.5;
    if (!depth) throw Custom(42);
    try { dive(depth - 1); }
    catch (const std::logic_error &) { std::printf("never\n"); }
    if (kept < 0) std::printf("never %f\n", kept);
}
static int thrower(int kind) {
    try {
        switch (kind) {
        case 0: throw 7;
        case 1: throw std::string("text");
        case 2: throw std::out_of_range("range");
        case 3: throw Both();
        case 4: std::vector<int>().at(3); break;
        case 5: throw "literal";
        case 6: (void)std::stoi("x"); break;
        case 7: { Base *base = new Base; std::unique_ptr<Base> hold(base); (void)dynamic_cast<Both &>(*base); break; }
        case 8: std::function<void()>()(); break;
        }
    }
    catch (int i) { return i; }
    catch (const std::string &s) { return (int)s.size(); }
    catch (const std::logic_error &e) { std::printf("%s|", typeid(e).name()); return 20; }
    catch (const Right &r) { return r.extra + r.speak(); }
    catch (const std::bad_cast &) { return 30; }
    catch (const std::exception &e) { std::printf("%s|", typeid(e).name()); return 31; }
    catch (...) { return 40; }
    return 50;
}
int main() {
    try { dive(40); }
    catch (const Custom &c) { std::printf("\n%s %d live %d\n", c.what(), c.code, live); }
    for (int i = 0; i < 9; i++) std::printf("%d=%d ", i, thrower(i));
    std::printf("\n");
    int caught = 0;
    for (int i = 0; i < 3000; i++) { try { Traced t(1); if (i % 3) throw i; } catch (int v) { caught += v; } }
    std::printf("caught %d live %d\n", caught, live);
    try { try { throw Custom(1); } catch (...) { std::throw_with_nested(std::runtime_error("outer")); } }
    catch (const std::exception &outer) {
        try { std::rethrow_if_nested(outer); } catch (const std::exception &inner) { std::printf("%s > %s\n", outer.what(), inner.what()); }
    }
    auto future = std::async(std::launch::async, []() -> int { throw Custom(5); });
    try { future.get(); } catch (const Custom &c) { std::printf("from a thread %d\n", c.code); }
    std::vector<std::thread> threads;
    int totals[3] = {};
    for (int t = 0; t < 3; t++)
        threads.emplace_back([t, &totals] { for (int i = 0; i < 500; i++) try { throw i + t; } catch (int v) { totals[t] += v; } });
    for (auto &t : threads) t.join();
    std::printf("%d %d %d\n", totals[0], totals[1], totals[2]);
    Both both; Base &base = both;
    std::printf("%d %d %s\n", base.speak(), dynamic_cast<Right *>(&base) != nullptr, typeid(base).name());
    std::set_terminate([] { std::printf("terminated\n"); std::fflush(stdout); std::_Exit(66); });
    throw Custom(0);
}
