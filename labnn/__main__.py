"""``python -m labnn``: the laboratory work from a terminal, a cluster or CI."""

import argparse
import importlib
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from labnn.batches import Batches, decode_images
from labnn.data import CarsData, open_dataset
from labnn.experiment import (
    OPTIMIZERS,
    Experiment,
    Run,
    check_optimizer,
    evaluate_variants,
    run_name,
    run_or_load,
    usable_device,
)
from labnn.kit.diagnose import near_duplicates
from labnn.kit.errors import LabError
from labnn.kit.files import written_whole
from labnn.kit.progress import print_standing
from labnn.report.compare import GRID, Protocol, last
from labnn.report.studies import STUDIES
from labnn.report.tables import (
    changes,
    number,
    optimizer_name,
    rate,
    rates_table,
    stability,
    summary_table,
    to_markdown,
    variants_table,
    verdict,
)
from labnn.report.write import start_signals, write_recorded, write_report, write_studies
from labnn.runner import fastest_processes, run_all

_HELP = {
    "optimizer": f"оптимизатор: {', '.join(OPTIMIZERS)}",
    "epochs": "число эпох",
    "seed": "зерно генератора",
    "lr": "наибольшая скорость обучения расписания",
    "warmup": "доля шагов до наибольшей скорости обучения",
    "weight_decay": "затухание весов; не задано — обычное для оптимизатора: 0.05 у adamw, 0.0002 у sgd, 0 у остальных",
    "batch_size": "размер пакета",
    "image_size": "сторона снимка на входе сети, пикселей",
    "start_size": "сторона снимка в первой эпохе, растёт до image_size; 0 — с начала image_size",
    "min_crop_area": "наименьшая доля площади при случайном кадрировании",
    "label_smoothing": "сглаживание меток",
    "version": "версия SqueezeNet: 1_0 или 1_1",
    "batch_norm": "пакетная нормализация в модулях Fire",
    "bypass": "обходные связи вокруг модулей Fire",
    "dropout": "доля отключаемых признаков перед последней свёрткой",
    "init": "начальные веса: he или default (как в PyTorch)",
    "logits_relu": "ReLU на последней свёртке, как в статье",
    "schedule": "расписание скорости обучения: one_cycle или constant",
    "mirror": "отражать половину обучающих снимков",
    "colour": "наибольшее изменение яркости и контраста, доля",
    "mix": "доля пакетов, в которых снимки смешиваются (CutMix или mixup)",
    "mirror_test": "на тесте усреднять ответы на снимок и его отражение",
    "test_size": "сторона снимка на тесте, пикселей; 0 — как при обучении",
    "test_every": "проверять на тесте каждые столько эпох (первая и последняя — всегда)",
    "ema_decay": "экспоненциальное усреднение весов: доля старых весов на шаг, 0 — не усреднять",
    "cosine": "вес косинусной функции потерь рядом с перекрёстной энтропией",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise LabError(f"Неверные аргументы ({message}): смотрите python -m labnn --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m labnn", description="SqueezeNet на Stanford Cars: AMSGrad и Adam.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="КОМАНДА", parser_class=_Parser)
    formatter = argparse.ArgumentDefaultsHelpFormatter

    download = commands.add_parser(
        "download", help="скачать Stanford Cars из Hugging Face или Kaggle", formatter_class=formatter
    )
    download.add_argument(
        "--data",
        type=Path,
        default=Path("data/stanford_cars"),
        help="папка, в которой появится набор, около 2 ГБ",
    )

    train = commands.add_parser(
        "train", help="обучить одну сеть и записать прогон", formatter_class=formatter
    )
    train.add_argument("--data", required=True, type=Path, help="корень набора данных")
    train.add_argument(
        "--out", type=Path, default=Path("data/runs"), help="папка записей: прогон ляжет в папку внутри неё"
    )
    train.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="папка декодированных снимков и контрольных точек",
    )
    train.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="устройство: cpu, cuda, cuda:1",
    )
    train.add_argument(
        "--crop-to-box",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="кадрировать по рамке из разметки",
    )
    train.add_argument("--skip-missing", action="store_true", help="пропускать снимки, которых нет в папке")
    _add_settings(train)

    compare = commands.add_parser(
        "compare",
        help="сравнить оптимизаторы: подобрать скорости, повторить с зёрнами",
        formatter_class=formatter,
    )
    compare.add_argument("--data", required=True, type=Path, help="корень набора данных")
    words = f"что сравнивать: {', '.join(OPTIMIZERS)} или ИМЯ=МОДУЛЬ:ФУНКЦИЯ(веса, скорость, затухание)"
    compare.add_argument("--optimizers", nargs="+", default=["amsgrad", "adam"], metavar="ИМЯ", help=words)
    compare.add_argument(
        "--grid", nargs="+", type=float, default=GRID, metavar="LR", help="скорости обучения, общие для всех"
    )
    compare.add_argument("--seeds", type=int, default=5, help="сколько пар прогонов с лучшими скоростями")
    compare.add_argument(
        "--out", type=Path, default=Path("data/runs/compare"), help="папка записей: tuning и final внутри неё"
    )
    compare.add_argument(
        "--figures", type=Path, default=Path("figures/compare"), help="папка рисунков и таблиц"
    )
    compare.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="папка декодированных снимков и контрольных точек",
    )
    places = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    compare.add_argument(
        "--devices", nargs="+", default=places, metavar="X", help="устройства: cpu или cuda:0 cuda:1 …"
    )
    compare.add_argument(
        "--processes",
        default="auto",
        help="сколько сетей обучать одновременно; auto — измерить, сколько быстрее",
    )
    _add_settings(compare, without=("optimizer", "lr", "seed"))

    study = commands.add_parser(
        "study", help="обучить все сети опыта: по одной правке и вместе", formatter_class=formatter
    )
    study.add_argument("name", choices=STUDIES, metavar="ОПЫТ", help=f"один из {', '.join(STUDIES)}")
    study.add_argument("--data", required=True, type=Path, help="корень набора данных")
    study.add_argument(
        "--out",
        type=Path,
        default=Path("data/runs"),
        help="папка записей: опыт ляжет в папку своего имени внутри неё",
    )
    study.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="папка декодированных снимков и контрольных точек",
    )
    study.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="устройство: cpu, cuda, cuda:1",
    )
    study.add_argument("--processes", type=int, default=1, help="сколько сетей обучать одновременно")

    variants = commands.add_parser(
        "variants",
        help="испытать обученную сеть: размер снимка на тесте, отражение",
        formatter_class=formatter,
    )
    variants.add_argument("--data", required=True, type=Path, help="корень набора данных")
    variants.add_argument(
        "--run",
        required=True,
        type=Path,
        help="папка записанного прогона: рядом с run.json ляжет variants.csv",
    )
    variants.add_argument(
        "--cache", type=Path, default=Path("data/cache"), help="папка, где лежат веса прогона"
    )

    duplicates = commands.add_parser(
        "duplicates",
        help="найти почти одинаковые снимки в обучающей и тестовой частях",
        formatter_class=formatter,
    )
    duplicates.add_argument("--data", required=True, type=Path, help="корень набора данных")
    duplicates.add_argument(
        "--out", required=True, type=Path, help="файл CSV: пары снимков, их классы и корреляция"
    )
    duplicates.add_argument(
        "--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков"
    )

    signal = commands.add_parser(
        "signal", help="как сигнал и градиент проходят слои до обучения", formatter_class=formatter
    )
    signal.add_argument("--data", required=True, type=Path, help="корень набора данных")
    signal.add_argument(
        "--out",
        type=Path,
        default=Path("data/runs/signal.csv"),
        help="файл CSV: строка на свёртку каждой сети",
    )
    signal.add_argument("--cache", type=Path, default=Path("data/cache"), help="папка декодированных снимков")

    report = commands.add_parser(
        "report", help="построить рисунки и таблицы по записанным прогонам", formatter_class=formatter
    )
    report.add_argument("--runs", type=Path, default=Path("data/runs"), help="папка записей")
    report.add_argument("--out", type=Path, default=Path("figures/recorded"), help="папка рисунков и таблиц")
    return parser


def _add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """A flag for each field of ``Experiment``, ``without`` some."""
    for field in fields(Experiment):
        if field.name not in without:
            numeric = float if field.default is None else type(field.default)
            kind = (
                {"action": argparse.BooleanOptionalAction}
                if isinstance(field.default, bool)
                else {"type": numeric, "metavar": "X"}
            )
            parser.add_argument(
                f"--{field.name.replace('_', '-')}", default=field.default, help=_HELP[field.name], **kind
            )


def _download(arguments: argparse.Namespace) -> None:
    from labnn.cars.download import download  # here: the clients take half a second to load

    download(arguments.data)


def _train(arguments: argparse.Namespace) -> None:
    check_optimizer(arguments.optimizer)
    experiment = Experiment(**{field.name: getattr(arguments, field.name) for field in fields(Experiment)})
    data = open_dataset(
        arguments.data,
        crop_to_box=arguments.crop_to_box,
        missing="skip" if arguments.skip_missing else "error",
    )
    folder = arguments.out / run_name(experiment, data)
    print(f"Прогон уже записан: {folder}" if folder.exists() else f"Запись прогона: {folder}", flush=True)
    run_or_load(experiment, data, arguments.out, cache_dir=arguments.cache, device=arguments.device)


def _compare(arguments: argparse.Namespace) -> None:
    names = tuple(_add_optimizer(name) for name in arguments.optimizers)
    own = ("optimizer", "lr", "seed", "weight_decay")
    base = Experiment(
        **{
            field.name: getattr(arguments, field.name)
            for field in fields(Experiment)
            if field.name not in own
        }
    )
    protocol = Protocol(base, names, tuple(arguments.grid), arguments.seeds, arguments.weight_decay)
    data = open_dataset(arguments.data, crop_to_box=True)
    devices = [str(usable_device(name)) for name in arguments.devices]
    processes = _processes(arguments.processes, protocol, data, arguments.cache, devices)
    print(
        f"Прогонов: {len(protocol.tuning())} для подбора скорости обучения и {arguments.seeds * len(names)} для ответа",
        flush=True,
    )

    def words(run: Run) -> str:
        accuracy = number(100 * last(run, "test_accuracy"), 2)
        return f"{optimizer_name(run.experiment.optimizer)}, {rate(run.experiment.lr)}, зерно {run.experiment.seed}: {accuracy} %"

    options = {
        "cache_dir": arguments.cache,
        "devices": devices,
        "processes": processes,
        "progress": partial(print_standing, words=words),
    }
    tuning = protocol.tune(data, arguments.out, **options)
    print(f"\n{to_markdown(rates_table(tuning))}\n\n{stability(tuning)}\n", flush=True)
    runs = protocol.compare(tuning, data, arguments.out, **options)
    paths = write_report(runs, arguments.figures, tuning)
    print(
        f"\n{to_markdown(summary_table(runs))}\n\nРисунки и таблицы ({len(paths)}): {arguments.figures}\n{verdict(runs)}"
    )


def _add_optimizer(words: str) -> str:
    """The name in "name" or "name=module:function"; a function so named joins ``OPTIMIZERS``."""
    name, _, place = words.partition("=")
    if not name.replace("-", "_").isidentifier():  # it becomes part of a folder's name
        raise LabError(f"Имя оптимизатора «{name}» не годится: оставьте буквы, цифры и дефис.")
    if place:
        module, _, function = place.partition(":")
        try:
            sys.path.insert(0, "")  # the user's own module lies where the command is given
            OPTIMIZERS[name] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise LabError(
                f"Оптимизатор «{words}» не найден ({error}): напишите ИМЯ=МОДУЛЬ:ФУНКЦИЯ."
            ) from None
    return name


def _processes(words: str, protocol: Protocol, data: CarsData, cache: Path, devices: list[str]) -> int:
    """The number in ``words``, or with "auto" the measured best, which is told."""
    if words.isdecimal():
        return int(words)
    if words != "auto":
        raise LabError(f"Значение processes={words} не годится: задайте auto или число от 1.")
    best, rates = fastest_processes(protocol.tuning()[0], data, cache_dir=cache, devices=devices)
    measured = ", ".join(f"{count} — {number(images, 0)}" for count, images in rates.items())
    print(f"Снимков в секунду при стольких обучениях сразу: {measured}. Одновременно: {best}", flush=True)
    return best


def _study(arguments: argparse.Namespace) -> None:
    study = STUDIES[arguments.name]
    data = open_dataset(arguments.data, crop_to_box=True)

    def words(run: Run) -> str:
        title = changes(run.experiment, study.base) or "без правок"
        return f"{title}, зерно {run.experiment.seed}: {number(100 * last(run, 'test_accuracy'), 2)} %"

    part = data.validation() if study.validation else data
    options = {
        "devices": [str(usable_device(arguments.device))],
        "processes": arguments.processes,
        "progress": partial(print_standing, words=words),
    }
    run_all(study.experiments(), part, arguments.out / arguments.name, cache_dir=arguments.cache, **options)


def _variants(arguments: argparse.Namespace) -> None:
    run = Run.load(arguments.run)
    data = open_dataset(arguments.data, crop_to_box=run.data["crop_to_box"])
    if run.data["name"] == f"{data.name}-validation":
        data = data.validation()
    if data.fingerprint() != run.data["fingerprint"]:
        raise LabError(
            f"Прогон {arguments.run} сделан на другом наборе, чем {arguments.data}: укажите его набор."
        )
    weights = next(
        iter(sorted(arguments.cache.glob(f"{run_name(run.experiment, data)}-*.pt"))),
        arguments.cache / f"{arguments.run.name}.pt",
    )
    table = evaluate_variants(run.experiment, data, weights, cache_dir=arguments.cache)
    with written_whole(arguments.run / "variants.csv") as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
    print(to_markdown(variants_table(table)))


def _duplicates(arguments: argparse.Namespace) -> None:
    data = open_dataset(arguments.data, crop_to_box=True)
    pairs = near_duplicates(*(decode_images(part, 128, arguments.cache) for part in (data.train, data.test)))
    table = pd.DataFrame(
        {
            "train_file": [data.train.paths[index].name for index in pairs["first"]],
            "test_file": [data.test.paths[index].name for index in pairs["second"]],
            "train_class": data.train.labels[pairs["first"]],
            "test_class": data.test.labels[pairs["second"]],
            "correlation": pairs["correlation"].round(4),
        }
    )
    with written_whole(arguments.out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
    print(f"Пар: {len(table)}, записаны в {arguments.out}")


def _signal(arguments: argparse.Namespace) -> None:
    data = open_dataset(arguments.data, crop_to_box=True)
    images, labels = next(
        iter(Batches(decode_images(data.train, 128, arguments.cache), data.train.labels, 64, shuffle=True))
    )
    table = pd.concat(start_signals(images, labels, len(data.class_names)), names=["network"]).reset_index(
        "network"
    )
    with written_whole(arguments.out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n", float_format="%.6g")
    print(f"Свёрток: {len(table)}, записаны в {arguments.out}")


def _report(arguments: argparse.Namespace) -> None:
    paths = write_recorded(arguments.runs, arguments.out)
    if (arguments.runs / "recipe").is_dir():
        paths += write_studies(arguments.runs, arguments.out)
    print(*paths, sep="\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, or 2 for a mistake of the user's, told in one line on stderr."""
    try:
        parsed = _parser().parse_args(arguments)
        {
            "download": _download,
            "train": _train,
            "compare": _compare,
            "study": _study,
            "variants": _variants,
            "duplicates": _duplicates,
            "signal": _signal,
            "report": _report,
        }[parsed.command](parsed)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Остановлено; та же команда продолжит с сохранённого.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
