"""``python -m labnn``: the laboratory work from a terminal, a cluster or CI."""

import argparse
import importlib
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from labnn.data import open_dataset
from labnn.experiment import order, run_or_load
from labnn.kit.errors import LabError, check, explained
from labnn.kit.files import write_text
from labnn.kit.hardware import usable_device
from labnn.kit.numbers import number, percent
from labnn.kit.progress import Progress, clock, say
from labnn.runner import run_all
from labnn.settings import NETWORKS, OPTIMIZERS, Experiment, check_names

DATA, CACHE, RUNS = Path("data/stanford_cars"), Path("data/cache"), Path("data/runs")
REPORT = Path("figures/report")
_EXAMPLES = {
    "download": "--data data/stanford_cars",
    "train": "--data ПАПКА --optimizer amsgrad --epochs 30 --seed 0",
    "compare": "--data ПАПКА --optimizers adam amsgrad --epochs 40 --image-size 64 --seeds 6",
    "study": "causes --data ПАПКА",
    "predict": "снимки/ --run data/runs/ПРОГОН --figure ответы.png",
    "report": "--notebook out/lab1.ipynb --html отчёт.html --pdf отчёт.pdf",
}


class _Help(argparse.HelpFormatter):
    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, "Вызов: " if prefix is None else prefix)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(formatter_class=_Help, add_help=False, **options)
        self._positionals.title, self._optionals.title = "Что", "Ключи"
        self.add_argument("-h", "--help", action="help", help="показать эту справку")

    def error(self, message: str):
        raise LabError(f"Неверные аргументы ({message}): смотрите {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m labnn", description="SqueezeNet на Stanford Cars: AMSGrad и Adam.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="КОМАНДА", parser_class=_Parser)

    def command(run: Callable[[argparse.Namespace], None], help: str) -> _Parser:
        name = run.__name__.strip("_")
        example = f"Например: python -m labnn {name} {_EXAMPLES[name]}"
        added = commands.add_parser(name, help=help, description=help, epilog=example)
        added.set_defaults(run=run)
        return added

    def trainer(run: Callable[[argparse.Namespace], None], help: str, out: Path) -> _Parser:
        """A command that trains: where photos, records and the cache lie, and on what it computes."""
        added = command(run, help)
        add = added.add_argument_group("Где и на чём").add_argument
        add("--data", required=True, type=Path, help="корень набора данных")
        add("--out", type=Path, default=out, help=f"папка записей, по умолчанию {out}")
        cache = "папка декодированных снимков, контрольных точек и весов"
        add("--cache", type=Path, default=CACHE, help=f"{cache}, по умолчанию {CACHE}")
        add("--devices", "--device", nargs="+", metavar="X", help="cpu, cuda или несколько: cuda:0 cuda:1")
        add("--threads", type=int, metavar="X", help="потоков процессора на сеть")
        crop = {"action": argparse.BooleanOptionalAction, "default": True}
        add("--crop-to-box", **crop, help="кадрировать по рамке, где она есть; так по умолчанию")
        if run is not _train:
            fitting = "сколько сетей обучать сразу; по умолчанию — сколько уместится"
            add("--processes", type=int, metavar="X", help=fitting)
            add("--cluster", metavar="АДРЕС", help="обучать на рабочих Dask: tcp://МАШИНА:8786")
        return added

    add = command(_download, "скачать Stanford Cars из Hugging Face или Kaggle").add_argument
    add("--data", type=Path, default=DATA, help=f"папка, в которой появится набор; по умолчанию {DATA}")

    train = trainer(_train, "обучить одну сеть и записать прогон", RUNS)
    train.add_argument("--skip-missing", action="store_true", help="пропускать снимки, которых нет в папке")
    _add_settings(train)

    told = "сравнить оптимизаторы: подобрать скорости, повторить с зёрнами"
    compare = trainer(_compare, told, RUNS / "compare")
    add = compare.add_argument_group("Что сравнить").add_argument
    names = f"{', '.join(OPTIMIZERS)} или ИМЯ=МОДУЛЬ:ФУНКЦИЯ, вызов — функция(веса, lr=…, weight_decay=…)"
    add("--optimizers", nargs="+", default=["amsgrad", "adam"], metavar="ИМЯ", help=names)
    add("--grid", nargs="+", type=_number, metavar="LR", help="скорости, общие для всех; по умолчанию семь")
    add("--seeds", type=int, default=6, metavar="X", help="пар прогонов с лучшими скоростями, по умолчанию 6")
    margin = "порог практического равенства, п. п. точности; назначьте его до прогонов, по умолчанию 1,5"
    add("--margin", type=_number, metavar="X", help=margin)
    add("--figures", type=Path, default=Path("figures/compare"), help="папка рисунков и таблиц")
    _add_settings(compare, without=("optimizer", "lr", "seed"))

    study = trainer(_study, "обучить все сети опыта: по одной правке и вместе", RUNS)
    known = sorted(path.parent.name for path in RUNS.glob("*/study.toml"))
    study.add_argument("name", choices=known, metavar="ОПЫТ", help=f"один из: {', '.join(known)}")

    add = command(_predict, "назвать модель на своих снимках").add_argument
    add("photos", nargs="+", type=Path, metavar="СНИМОК", help="файлы или папки")
    add("--run", dest="folder", type=Path, help="папка прогона; без неё отвечает сеть рисованного набора")
    add("--weights", type=Path, help="веса; по умолчанию рядом с прогоном или в папке --cache")
    add("--data", type=Path, help="набор прогона, если в записи нет имён классов")
    add("--cache", type=Path, default=CACHE, help=f"папка весов, по умолчанию {CACHE}")
    add("--csv", type=Path, help="записать ответы и сюда")
    add("--figure", type=Path, help="рисунок со снимками и картами: .png, .jpg, .svg, .pdf")

    add = command(_report, "построить рисунки и таблицы по записям или сдать отчёт").add_argument
    add("--runs", type=Path, default=RUNS, help=f"папка записей, по умолчанию {RUNS}")
    add("--out", type=Path, default=REPORT, help=f"папка рисунков и таблиц, по умолчанию {REPORT}")
    add("--readme", type=Path, help="файл, в котором обновить числа")
    add("--html", type=Path, help="только сдать отчёт: выполненный блокнот одним файлом HTML")
    add("--pdf", type=Path, help="то же в PDF, страницы A4; нужен Chromium")
    add("--notebook", type=Path, default=Path("lab1.ipynb"), help="выполненный блокнот")
    add("--code", action=argparse.BooleanOptionalAction, default=True, help="код в отчёте")
    return parser


def _number(text: str) -> float:
    """A number with a point or, as Russian texts have it, a comma."""
    return float(text.replace(",", "."))


def _add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """A flag for each field of ``Experiment``, ``without`` some; one not given stays out of the namespace."""
    add = parser.add_argument_group("Настройки обучения").add_argument
    for field in fields(Experiment):
        if field.name in without:
            continue
        words, default = field.metadata["words"], field.default
        if isinstance(words, dict):
            words = "; ".join(f"{key} — {value}" for key, value in words.items())
        told = words.replace("{percent}", "X (доля)").replace("{}", "X").replace("|", " или ")
        told = told.replace("%", "%%") + ("" if default is None else f"; по умолчанию {default}")
        real = default is None or isinstance(default, float)
        kind = {"type": _number if real else type(default), "metavar": "X"}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        add(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=told, **kind)


def _experiment(arguments: argparse.Namespace) -> Experiment:
    given = {one.name: getattr(arguments, one.name) for one in fields(Experiment) if one.name in arguments}
    for name, table in (("optimizer", OPTIMIZERS), ("network", NETWORKS)):
        if name in given:
            given[name] = _own(given[name], table)
    experiment = Experiment(**given)
    check_names(experiment)
    return experiment


def _own(words: str, table: dict) -> str:
    """The name in "name" or "name=module:function"; a function so named joins ``table``."""
    name, _, place = words.partition("=")
    if place:
        module, _, function = place.partition(":")
        sys.path.insert(0, "")  # the user's own module lies where the command is given
        way_out = "пишется ИМЯ=МОДУЛЬ:ФУНКЦИЯ, модуль может лежать в этой папке"
        with explained(f"Функция «{words}» не найдена", way_out):
            table[name] = getattr(importlib.import_module(module), function)
    return name


def _options(arguments: argparse.Namespace) -> dict:
    """What ``run_all`` needs beside the experiments."""
    devices = [str(usable_device(name)) for name in arguments.devices or ()]
    options = {"cache_dir": arguments.cache, "devices": devices, "threads": arguments.threads}
    return options | {"processes": arguments.processes, "cluster": arguments.cluster}


def _download(arguments: argparse.Namespace) -> None:
    from labnn.download import download  # here: the clients take half a second to load

    print(f"Набор готов: {download(arguments.data)}")


def _epochs() -> Progress:
    """Prints each epoch of a training: which of how many, what its figures are of, the time left by its pace;
    after the last the test accuracy.
    """
    before = None

    def told(rows: list[dict], epochs: int) -> None:
        nonlocal before
        row, now = rows[-1], time.perf_counter()
        seconds, before = now - before if before else row["seconds"], now
        tested = "" if math.isnan(row["test_loss"]) else f", на тесте {percent(row['test_accuracy'], 1)}"
        left = f"; осталось около {clock(seconds * (epochs - row['epoch']))}" if row["epoch"] < epochs else ""
        say(
            f"Эпоха {row['epoch']} из {epochs}: потери на обучении {number(row['train_loss'], 4)}, "
            f"точность на обучении {percent(row['train_accuracy'], 1)}{tested}{left}"
        )
        if not left:
            say(f"Тестовая точность: {row['test_accuracy']:.2%}")

    return told


def _train(arguments: argparse.Namespace) -> None:
    experiment, device = _experiment(arguments), usable_device(next(iter(arguments.devices or ()), None))
    missing = "skip" if arguments.skip_missing else "error"
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box, missing=missing)
    folder = order(experiment, data).folder(arguments.out)
    print(f"Прогон уже записан: {folder}" if folder.exists() else f"Запись прогона: {folder}", flush=True)
    options = {"cache_dir": arguments.cache, "device": device, "threads": arguments.threads}
    run_or_load(experiment, data, arguments.out, progress=_epochs(), **options)


def _compare(arguments: argparse.Namespace) -> None:
    from labnn.protocol import GRID, Protocol
    from labnn.report import records, tables, words
    from labnn.report.statistics import MARGIN
    from labnn.report.write import write_comparison

    names = tuple(_own(name, OPTIMIZERS) for name in arguments.optimizers)
    grid, decay = tuple(arguments.grid or GRID), vars(arguments).get("weight_decay")
    margin = MARGIN if arguments.margin is None else arguments.margin / 100
    check("margin", margin, float, 0, 1)
    protocol = Protocol(_experiment(arguments), names, grid, arguments.seeds, decay)
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box)
    tuned, final = len(protocol.tuning()), arguments.seeds * len(names)
    print(f"Прогонов: {tuned} для подбора скорости обучения и {final} для ответа", flush=True)
    tuning = protocol.tune(data, arguments.out, **_options(arguments))
    tried = records.table(tuning)
    print(f"\n{tables.markdown(tables.rates(tried))}\n\n{words.stability(tried)}\n", flush=True)
    found = records.table(protocol.compare(tuning, data, arguments.out, **_options(arguments)))
    paths = write_comparison(found, arguments.figures, tried, margin)
    print(f"\n{tables.markdown(tables.summary(found))}\n")
    print(f"Рисунки и таблицы ({len(paths)}): {arguments.figures}")
    print(words.verdict(found, margin=margin))


def _study(arguments: argparse.Namespace) -> None:
    from labnn.report import records
    from labnn.report.studies import studies

    study, rates = studies(RUNS)[arguments.name], {}
    if not study.experiments():
        raise LabError(
            f"Опыт {study.name} ничего не обучает: назовите другой, у которого в study.toml есть base."
        )
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box)
    folder = study.folder(arguments.out)
    options = _options(arguments)
    if trials := study.tuning():
        places = data.validation(), folder.with_name("tuning")
        rates = records.top_rates(records.table(run_all(trials, *places, title="Подбор скорости", **options)))
        print(f"Выбраны скорости: {rates}", flush=True)
    known = {run.experiment for run in study.load(arguments.out)["run"]}
    left = [one for one in study.experiments(rates) if one not in known]
    run_all(left, data.validation() if study.validation else data, folder, title=study.name, **options)


def _predict(arguments: argparse.Namespace) -> None:
    from labnn import predict
    from labnn.report.write import save_figure

    if arguments.figure:
        predict.check_figure_path(arguments.figure)
    folder = arguments.folder or predict.EXAMPLE
    network = predict.open_network(folder, arguments.weights, arguments.data, arguments.cache)
    answers = predict.predict(network, predict.find_photos(arguments.photos))
    for photo, own in answers.groupby("photo", sort=False):
        shares = zip(own["class"], own["probability"], strict=True)
        print(f"{photo}: {', '.join(f'{name} {percent(share, 1)}' for name, share in shares)}")
    if arguments.csv:
        print(write_text(arguments.csv, answers.to_csv(index=False, lineterminator="\n")))
    if arguments.figure:
        print(save_figure(predict.plot_answers(network, answers), arguments.figure))


def _report(arguments: argparse.Namespace) -> None:
    if arguments.html or arguments.pdf:
        from labnn.report.page import write_html, write_pdf

        with tempfile.TemporaryDirectory() as folder:
            html = arguments.html or Path(folder) / "report.html"
            print(write_html(arguments.notebook, html, arguments.code))
            if arguments.pdf:
                print(write_pdf(html, arguments.pdf))
        return
    from labnn.report.write import write_report

    print(*write_report(arguments.runs, arguments.out, arguments.readme), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit status: 0, or 2 for a user's mistake, told in one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # cp1251 and cp866 lack a star and a minus
            stream.reconfigure(errors="replace")
    try:
        parsed = _parser().parse_args(arguments)
        unknown = "этого случая labnn не предвидит, сообщите о нём, приведя эту строку"
        with explained("Команда не выполнена", unknown):
            parsed.run(parsed)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Остановлено; та же команда продолжит с сохранённого.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
